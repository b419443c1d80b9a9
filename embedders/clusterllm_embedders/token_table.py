"""Texts tokenized once, whatever the number of times that they go through a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_embedders.batching import TOKENIZED, TOKENIZED_CHARACTERS, Features, default_prompt, is_padded
from clusterllm_plugins.embedding import batches_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


class TokenTable:
    """The tokens of texts, with the model's own prompt, without padding.

    Args:
        model: Tokenizes.
        texts: Shape (n_texts,).

    Attributes:
        lengths: Tokens of each text (characters, where the model has no padding), shape (n_texts,).
    """

    def __init__(self, model: SentenceTransformer, texts: Sequence[str]) -> None:
        self._model = model
        self._texts = texts
        self._prompt = default_prompt(model)
        self._tokens: dict[str, list[torch.Tensor]] = {}  # by feature, a row per text
        self._others: Features = {}  # what is not by text
        tokenizer = getattr(model, "tokenizer", None)
        self._is_left = getattr(tokenizer, "padding_side", "right") == "left"
        # What stands under a zero of the mask is not read, but some models count positions by it.
        self._padding = {"input_ids": getattr(tokenizer, "pad_token_id", None) or 0}
        self.lengths: NDArray[np.int64] = np.array([len(text) for text in texts], dtype=np.int64)
        order = np.argsort(-self.lengths, kind="stable")
        in_order = self.lengths[order].tolist()
        rows: dict[str, dict[int, torch.Tensor]] = {}
        for block in batches_of(in_order, TOKENIZED_CHARACTERS, TOKENIZED):
            if not self._tokenize(order[block].tolist(), rows):
                return
        self._tokens = {name: [by_text[row] for row in range(len(texts))] for name, by_text in rows.items()}

    def _tokenize(self, block: Sequence[int], rows: dict[str, dict[int, torch.Tensor]]) -> bool:
        """Keep the tokens of a block of texts; return False where the model has none to keep."""
        import torch

        features = self._model.preprocess([self._texts[row] for row in block], prompt=self._prompt)
        if not is_padded(features, len(block)):
            return False
        mask = features["attention_mask"]
        widths = mask.sum(dim=1).tolist()
        self.lengths[block] = widths
        for name, value in features.items():
            if isinstance(value, torch.Tensor) and value.shape[:2] == mask.shape:
                kept = rows.setdefault(name, {})
                for row, tokens, width in zip(block, value, widths, strict=True):
                    kept[row] = (tokens[len(tokens) - width :] if self._is_left else tokens[:width]).clone()
            elif isinstance(value, torch.Tensor) and value.ndim and len(value) == len(block):
                rows.setdefault(name, {}).update(zip(block, value, strict=True))
            else:
                self._others[name] = value
        return True

    def features(self, rows: Sequence[int]) -> Features:
        """Return the features of some texts on the model's device, padded to the longest of them."""
        import torch

        device: Any = self._model.device
        if not self._tokens:
            features = self._model.preprocess([self._texts[row] for row in rows], prompt=self._prompt)
        else:
            width = int(self.lengths[list(rows)].max())
            features = dict(self._others)
            for name, tokens in self._tokens.items():
                padded = [self._padded(tokens[row], width - int(self.lengths[row]), name) for row in rows]
                features[name] = torch.stack(padded)
        return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}

    def _padded(self, tokens: torch.Tensor, missing: int, name: str) -> torch.Tensor:
        import torch

        if not tokens.ndim or not missing:
            return tokens
        sides = (missing, 0) if self._is_left else (0, missing)
        return torch.nn.functional.pad(tokens, sides, value=self._padding.get(name, 0))
