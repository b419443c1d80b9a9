"""A process of its own that embeds at a server, to be killed: ``python embedding_worker.py SETTINGS``.

SETTINGS is JSON: ``url``, ``cache``, ``count`` (how many texts), ``batch_size`` and ``concurrency``.
"""

import json
import sys

from clusterllm_embedders.openai import OpenAIEmbedder
from clusterllm_plugins.embedding import embed_texts


def texts_of(count):
    """Return as many distinct texts."""
    return [f"The kettle number {number} drips" for number in range(count)]


def main(url, cache, count, batch_size, concurrency):
    embedder = OpenAIEmbedder("acorn", base_url=url, api_key_env="", batch_size=batch_size, concurrency=concurrency)
    print(embed_texts(embedder, texts_of(count), cache=cache).shape[0])


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
