"""``sentence-transformers``: any model of that library, local or from a hub, which can be fine-tuned.

The model is loaded when it is first used, never at construction.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_embedders.precision import autocast, check_precision, resolve_precision
from clusterllm_plugins.embedding import distinct_longest_first
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, MissingExtraError
from clusterllm_plugins.protocols import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from clusterllm_embedders.finetuning import Training


class SentenceTransformerEmbedder:
    """Embeds texts with a sentence-transformers model.

    Args:
        model: A folder or the name of a model on the hub.
        instruction: The perspective in words, for a model that takes one (Instructor, E5-instruct).
        prefix: What stands before every text; by default what the model's family wants (``"query: "`` for E5).
        device: ``"cpu"``, ``"cuda"``, ...; ``None`` takes a GPU where there is one, when the model is loaded.
        precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the processor multiplies it natively.
        batch_size: Texts a forward pass.
        max_length: Tokens after which a text is cut; ``None`` = the model's own limit.
        normalize: Whether vectors are scaled to length 1.
        trust_remote_code: Whether a model from the hub may run code of its own.
        path: A folder written by :meth:`save`, loaded in place of ``model``.
    """

    def __init__(
        self,
        model: str,
        instruction: str | None = None,
        prefix: str | None = None,
        device: str | None = None,
        precision: str = "auto",
        batch_size: int = 32,
        max_length: int | None = None,
        normalize: bool = True,
        trust_remote_code: bool = False,
        path: str | Path | None = None,
    ) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise MissingExtraError("embedder 'sentence-transformers'", "transformers")
        check_precision(precision)
        self.model_name = model
        self.prefix = prefix_of(model, instruction) if prefix is None else prefix
        self.batch_size = batch_size
        self.normalize = normalize
        self._source = str(model if path is None else path)
        self._device = device
        self._precision = precision
        self._max_length = max_length
        self._trust = trust_remote_code
        self._loaded: SentenceTransformer | None = None
        self._digest: str | None = None

    @property
    def model(self) -> SentenceTransformer:
        """The model, loaded when it is first asked for."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        try:
            with without_bars():
                model = SentenceTransformer(self._source, device=self._device, trust_remote_code=self._trust)
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise ClusterLLMError(
                f"embedder 'sentence-transformers': cannot load {self._source!r} ({reason})"
            ) from error
        if self._max_length is not None:
            model.max_seq_length = self._max_length
        model.eval()
        return model

    @property
    def precision(self) -> str:
        """The precision that is used on the model's device."""
        return resolve_precision(self._precision, str(self.model.device))

    @property
    def fingerprint(self) -> str:
        """A digest of all weights, and whatever else changes a vector."""
        if self._digest is None:
            digest = hashlib.sha256()
            for name, tensor in sorted(self.model.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().float().numpy().tobytes())
            self._digest = digest.hexdigest()[:16]
        name = Path(self.model_name).name
        limit = self.model.max_seq_length
        return f"sentence-transformers:{name}:{self._digest}:{self.precision}:{limit}:{self.prefix!r}:{self.normalize}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, float32, shape (n_texts, dim).

        Equal texts are embedded once, and a batch holds texts of about one length. A text that is longer than
        the model's limit is cut, with a warning.
        """
        distinct, places = distinct_longest_first([self.prefix + text for text in texts])
        self._warn_of_cut(distinct)
        model, batches = self.model, []
        with autocast(self.precision, str(model.device)):
            for start in range(0, len(distinct), self.batch_size):
                batch = distinct[start : start + self.batch_size]
                batches.append(
                    model.encode(
                        batch,
                        batch_size=self.batch_size,
                        convert_to_numpy=True,
                        normalize_embeddings=self.normalize,
                        show_progress_bar=False,
                    )
                )
        if not batches:
            return np.empty((0, self.dimensions), dtype=np.float32)
        vectors: Vectors = np.concatenate(batches).astype(np.float32)[places]
        return vectors

    @property
    def dimensions(self) -> int:
        """The size of a vector."""
        return int(self.model.get_embedding_dimension() or 0)

    def _warn_of_cut(self, texts: Sequence[str]) -> None:
        limit = self.model.max_seq_length
        if limit is None:
            return
        tokenizer = self.model.tokenizer
        # A token is at least a byte: only texts longer than that need counting.
        longest = limit - tokenizer.num_special_tokens_to_add()
        long = [text for text in texts if len(text.encode()) > longest]
        cut = sum(len(tokenizer(text, truncation=False, verbose=False)["input_ids"]) > limit for text in long)
        if cut:
            warnings.warn(
                f"{cut} texts are longer than the model's limit of {limit} tokens and are cut there",
                ClusterLLMWarning,
                stacklevel=3,
            )

    def finetune(
        self,
        texts: Sequence[str],
        triplets: NDArray[np.int64],
        *,
        seed: int = 0,
        progress: bool = False,
        training: Training | None = None,
    ) -> SentenceTransformerEmbedder:
        """Return a new embedder that has learnt from triplets (paper, section 3.1).

        Args:
            texts: The texts that the triplets point into.
            triplets: Positions (anchor, chosen, rejected), shape (n_triplets, 3).
            seed: Decides the order of the triplets and the dropout.
            progress: Whether to show a progress bar.
            training: The hyperparameters; by default the published ones for the model's family.
        """
        from clusterllm_embedders.finetuning import finetuned, training_for

        tuned = self._like()
        tuned._loaded = finetuned(
            self.model,
            [self.prefix + text for text in texts],
            triplets,
            training=training or training_for(self.model_name),
            precision=self.precision,
            seed=seed,
            progress=progress,
        )
        return tuned

    def _like(self) -> SentenceTransformerEmbedder:
        """Return an embedder with the same settings and no model loaded."""
        return SentenceTransformerEmbedder(
            self.model_name,
            prefix=self.prefix,
            device=self._device,
            precision=self._precision,
            batch_size=self.batch_size,
            max_length=self._max_length,
            normalize=self.normalize,
            trust_remote_code=self._trust,
        )

    def save(self, folder: Path) -> None:
        """Write a plain sentence-transformers folder, usable without this package."""
        model = self.model
        with without_bars():
            model.save(str(folder), create_model_card=False, safe_serialization=True)


def prefix_of(model: str, instruction: str | None) -> str:
    r"""Return what a model's family wants before a text.

    E5 wants ``"query: "`` and, where it was trained on instructions, ``"Instruct: ...\nQuery: "``; any other model
    gets the instruction alone, as Instructor does.
    """
    name = model.lower()
    is_e5 = re.search(r"(?:^|[/_-])e5(?:[/_-]|$)", name) is not None
    if is_e5 and "instruct" in name:
        return f"Instruct: {instruction or 'Identify the category of the text'}\nQuery: "
    if is_e5:
        return "query: "
    return f"{instruction.rstrip(': ')}: " if instruction else ""


def without_bars() -> Any:
    """Return a context in which transformers shows no bar for loading or writing weights."""
    from contextlib import contextmanager

    from transformers.utils import logging

    @contextmanager
    def silent() -> Any:
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            if shown:
                logging.enable_progress_bar()  # type: ignore[no-untyped-call]

    return silent()
