"""A tiny BERT with random weights and its own vocabulary: made in a moment, nothing is downloaded."""

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from clusterllm_embedders.sentence_transformer import SentenceTransformerEmbedder

WORDS = ["ferry", "moss", "kettle", "of", "harbour", "seven", "sleeping", "cats", "tea", "boat", "rain", "lamp"]
TEXTS = [" ".join(WORDS[(i * k) % 12] for k in range(1 + (5 * i) % 11)) + f" {WORDS[i % 12]}" for i in range(30)]


def write_tiny_model(folder, dropout=0.1):
    """Write a sentence-transformers folder of a BERT with two layers of 16 units."""
    inner = folder / "bert"
    inner.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (inner / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast({word: number for number, word in enumerate(words)}).save_pretrained(inner)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=0.5,
        )
        BertModel(config).save_pretrained(inner)
        transformer = Transformer(str(inner), max_seq_length=32)
        model = SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")
    model.save(str(folder / "model"), create_model_card=False)
    return folder / "model"


def tiny_embedder(folder, **settings):
    """Return an embedder around a folder of :func:`write_tiny_model`."""
    return SentenceTransformerEmbedder("tiny", path=folder, device="cpu", precision="fp32", **settings)


def random_triplets(n, seed=0):
    """Return triplets of the texts above, some texts in many of them, shape (n, 3)."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(len(TEXTS), 3, replace=False) for _ in range(n)])
