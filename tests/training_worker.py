"""A process that fine-tunes with a checkpoint after each step, to be killed: model, folder of checkpoints, output.

It prints the kind of each checkpoint once that is written.
"""

import sys
from pathlib import Path

import torch

from clusterllm_embedders import checkpoints
from clusterllm_embedders.finetuning import Training
from clusterllm_embedders.minilm import MiniLMEmbedder
from tiny_model_kit import TEXTS, random_triplets, tiny_embedder

TRAINING = Training(learning_rate=1e-2, batch_size=4, epochs=12)
SHORT = Training(learning_rate=1e-4, batch_size=2, epochs=2)


def tuned(model, folder):
    """Return the fine-tuned embedder."""
    if model == "minilm":
        return MiniLMEmbedder(precision="fp32").finetune(
            TEXTS, random_triplets(8), seed=1, training=SHORT, checkpoints=folder
        )
    return tiny_embedder(model).finetune(TEXTS, random_triplets(24), seed=1, training=TRAINING, checkpoints=folder)


class Telling(checkpoints.Checkpoints):
    """Checkpoints that print what they wrote."""

    def put(self, kind, tensors, state):
        done = super().put(kind, tensors, state)
        print(kind, flush=True)
        return done


if __name__ == "__main__":
    torch.set_num_threads(1)
    checkpoints.SECONDS = checkpoints.SHARE = 0
    checkpoints.Checkpoints = Telling
    tuned(sys.argv[1], Path(sys.argv[2])).save(Path(sys.argv[3]))
