"""An overview of support tickets: which groups there are, how large, what they are about.

With OPENAI_API_KEY set the questions go to OpenAI, or to the server that OPENAI_BASE_URL names, and so does the text
of the tickets in them. Without a key, or with --offline, a stand-in on this machine gets them; it counts common words.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from haystack import Document
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.utils import Secret
from stand_in import serve

from haystack_integrations.components.clusterers.clusterllm import ClusterLLMClusterer

MESSAGES = Path(__file__).parents[1] / "messages.jsonl"
WIDTH = 100


def overview(tickets: list[str], chat_generator: OpenAIChatGenerator, max_llm_calls: int) -> dict[str, Any]:
    """Return what ``ClusterLLMClusterer`` finds in tickets."""
    clusterer = ClusterLLMClusterer(
        chat_generator,
        embedder="lsa",  # nothing to download; "minilm" with clusterllm-plugins[offline] knows languages
        n_clusters=[12, 24],  # yes/no questions choose
        method="paper",  # the default, "auto", stops asking whoever knows as little as the stand-in
        instruction="in terms of what the customer wants",
        # A hard cap on both kinds of questions together, so that a run cannot cost more than expected.
        max_questions=max_llm_calls * 2 // 3,
        max_llm_calls=max_llm_calls,
        max_workers=8,
        progress_bar=False,
    )
    result: dict[str, Any] = clusterer.run([Document(content=ticket) for ticket in tickets])
    return result


def show(result: dict[str, Any]) -> None:
    """Print each group, the largest first, and what it took to find them."""
    texts = {document.id: document.content for document in result["documents"]}
    for cluster in sorted(result["clusters"], key=lambda cluster: -cluster["size"]):
        print(f"\n{cluster['size']:4d}  {cluster['label']}")
        print(f"      keywords: {', '.join(cluster['keywords'])}")
        for text in dict.fromkeys(texts[document_id] for document_id in cluster["exemplar_ids"]):
            print(f"      - {text if len(text) <= WIDTH else text[: WIDTH - 1] + '…'}")
    stats = result["stats"]
    print(
        f"\n{stats['documents']} tickets in {stats['n_clusters']} groups, {stats['failed_documents']} could not be used"
    )
    if stats["oracle_error"]:  # a wrong key, for example: the tickets are grouped by their words then
        print(f"Grouped without answers: {stats['oracle_error']}")
        return
    print(
        f"{stats['questions_asked']} questions asked in {stats['requests']} requests: "
        f"{stats['input_tokens']} tokens in, {stats['output_tokens']} out"
    )


def main() -> None:
    """Ask whom there is to ask, and print the overview."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tickets", nargs="?", type=Path, default=MESSAGES, help='JSON Lines with a field "text"')
    parser.add_argument("--offline", action="store_true", help="ask the stand-in even if there is a key")
    parser.add_argument("--model", default="gpt-4o-mini")
    parser.add_argument("--max-llm-calls", type=int, default=300, metavar="N")
    options = parser.parse_args()
    lines = options.tickets.read_text(encoding="utf-8").splitlines()
    tickets = [json.loads(line)["text"] for line in lines if line.strip()]

    if os.environ.get("OPENAI_API_KEY") and not options.offline:
        where = os.environ.get("OPENAI_BASE_URL", "OpenAI")
        print(f"Asking {options.model} at {where}, at most {options.max_llm_calls} times.")
        show(overview(tickets, OpenAIChatGenerator(model=options.model, max_retries=0), options.max_llm_calls))
        return
    with serve() as server:
        print(f"Offline: a stand-in at {server.url} answers. It counts common words, it is no language model,")
        print("and what it calls tokens are words.")
        generator = OpenAIChatGenerator(
            api_key=Secret.from_token("none needed"),
            model="stand-in",
            api_base_url=server.url,
            max_retries=0,  # the clusterer retries
            http_client_kwargs={"trust_env": False},  # no proxy between us and this machine
        )
        show(overview(tickets, generator, options.max_llm_calls))


if __name__ == "__main__":
    main()
