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

from clusterllm_embedders.arriving import valid
from clusterllm_embedders.batching import Batches, Features, Forward, default_prompt
from clusterllm_embedders.precision import autocast, check_precision, resolve_precision
from clusterllm_plugins.embedding import distinct_longest_first
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, MissingExtraError
from clusterllm_plugins.protocols import Vectors

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from clusterllm_embedders.finetuning import Training

BACKENDS = ("torch", "onnx")
CHANGED_BY_A_PASS = ("dynamic", "longrope")  # rotary embeddings that are computed anew for a longer text


class SentenceTransformerEmbedder:
    """Embeds texts with a sentence-transformers model.

    Args:
        model: A folder or the name of a model on the hub.
        instruction: The perspective in words, for a model that takes one (Instructor, E5-instruct).
        prefix: What stands before every text; by default what the model's family wants (``"query: "`` for E5).
        device: ``"cpu"``, ``"cuda"``, ...; ``None`` takes a GPU where there is one, when the model is loaded.
        precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the processor multiplies it natively.
        batch_size: The most texts a forward pass; ``None`` = as many as the budget of tokens takes.
        max_length: Tokens after which a text is cut; ``None`` = the model's own limit.
        normalize: Whether vectors are scaled to length 1.
        trust_remote_code: Whether a model from the hub may run code of its own.
        path: A folder written by :meth:`save`, loaded in place of ``model``.
        batch_tokens: The most tokens a forward pass, padding included, where it is more than one text; ``None`` = what
            suits the device. Also of fine-tuning.
        backend: ``"torch"``, or ``"onnx"``: ONNX Runtime, on the CPU in fp32 (the extra ``onnx``).
    """

    def __init__(
        self,
        model: str,
        instruction: str | None = None,
        prefix: str | None = None,
        device: str | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        max_length: int | None = None,
        normalize: bool = True,
        trust_remote_code: bool = False,
        path: str | Path | None = None,
        batch_tokens: int | None = None,
        backend: str = "torch",
    ) -> None:
        if importlib.util.find_spec("sentence_transformers") is None:
            raise MissingExtraError("embedder 'sentence-transformers'", "transformers")
        check_precision(precision)
        check_backend(backend, precision, device)
        _check_positive(batch_size=batch_size, batch_tokens=batch_tokens)
        self.model_name = model
        self.prefix = prefix_of(model, instruction) if prefix is None else prefix
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.backend = backend
        self.normalize = normalize
        self._source = str(model if path is None else path)
        self._device = device
        self._precision = precision
        self._max_length = max_length
        self._trust = trust_remote_code
        self._loaded: SentenceTransformer | None = None
        self._digest: str | None = None
        self._batches: Batches | None = None

    def __getstate__(self) -> dict[str, Any]:
        # For the processes of spaCy's n_process: a session of ONNX Runtime cannot go there, and is made again.
        return self.__dict__ | {"_batches": None}

    @property
    def model(self) -> SentenceTransformer:
        """The model, loaded when it is first asked for."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        device = "cpu" if self.backend == "onnx" else self._device
        try:
            with without_bars():
                model = SentenceTransformer(self._source, device=device, trust_remote_code=self._trust)
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
        return "fp32" if self.backend == "onnx" else resolve_precision(self._precision, str(self.model.device))

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
        backend = "" if self.backend == "torch" else f":{self.backend}"
        return (
            f"sentence-transformers:{name}:{self._digest}:{self.precision}:{limit}:{self.prefix!r}:{self.normalize}"
            f"{backend}"
        )

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, float32, shape (n_texts, dim).

        Equal texts are embedded once, in batches of texts of about one length. A text that is longer than the model's
        limit is cut, with a warning. Of one text in other company, the last bits of its vector can differ, as those
        of a sum do in another order.
        """
        distinct, places = distinct_longest_first(self._given(texts))
        if not distinct:
            return np.empty((0, self.dimensions), dtype=np.float32)
        if self._batches is None:
            self._batches = Batches(
                self.model,
                self._forward(),
                self.normalize,
                self.batch_tokens,
                self.batch_size,
                parallel=self._may_run_in_parallel(),
            )
        return self._batches.vectors(distinct, self._warn_of_cut)[places]

    def _given(self, texts: Sequence[str]) -> list[str]:
        """Return texts as the model is given them."""
        return [valid(self.prefix + text) for text in texts]

    def _forward(self) -> Forward:
        """Return what turns features into vectors."""
        model = self.model
        if self.backend == "onnx":
            from clusterllm_embedders.onnx_runtime import OnnxForward

            return OnnxForward(model, self._source)
        precision, device = self.precision, str(model.device)

        def forward(features: Features) -> torch.Tensor:
            with autocast(precision, device):  # of the thread that it is in
                vectors: torch.Tensor = model(features)["sentence_embedding"]
            return vectors

        return forward

    def _may_run_in_parallel(self) -> bool:
        """Return whether several threads may be in the model at once: not where a pass may change it."""
        if self.backend == "onnx" or self._trust or self.model.device.type != "cpu":
            return False
        return not any(getattr(module, "rope_type", None) in CHANGED_BY_A_PASS for module in self.model.modules())

    @property
    def dimensions(self) -> int:
        """The size of a vector."""
        return int(self.model.get_embedding_dimension() or 0)

    def _warn_of_cut(self, texts: Sequence[str], limit: int) -> None:
        """Warn where one of ``texts``, which all fill the model's limit, is longer."""
        tokenizer = self.model.tokenizer
        if any(len(tokenizer(text, truncation=False, verbose=False)["input_ids"]) > limit for text in texts):
            # Without their number: texts come in blocks, and this is to be said once.
            warnings.warn(
                f"texts that are longer than the model's limit of {limit} tokens are cut there",
                ClusterLLMWarning,
                stacklevel=5,
            )

    def finetune(
        self,
        texts: Sequence[str],
        triplets: NDArray[np.int64],
        *,
        seed: int = 0,
        progress: bool = False,
        training: Training | None = None,
        checkpoints: Path | None = None,
    ) -> SentenceTransformerEmbedder:
        """Return a new embedder that has learnt from triplets (paper, section 3.1).

        Args:
            texts: The texts that the triplets point into.
            triplets: Positions (anchor, chosen, rejected), shape (n_triplets, 3).
            seed: Decides the order of the triplets and the dropout.
            progress: Whether to show a progress bar.
            training: The hyperparameters; by default the published ones for the model's family.
            checkpoints: A folder from which a killed run goes on, to the same weights on as many threads, and a
                finished one is not made again. While training it takes three times the disk space of the model in
                fp32 for each of the last two runs, then once.

        Raises:
            ClusterLLMError: If a single text does not fit into memory.
        """
        from clusterllm_embedders.checkpoints import Checkpoints
        from clusterllm_embedders.finetuning import finetuned, identity_of, training_for

        training = training or training_for(self.model_name)
        kept = None
        if checkpoints is not None:
            prompt, device = default_prompt(self.model), self.model.device.type
            identity = identity_of(self.fingerprint, prompt, texts, triplets, training, seed, self.batch_tokens, device)
            kept = Checkpoints(checkpoints, identity)
        tuned = self._like()
        tuned._loaded = finetuned(
            self.model,
            self._given(texts),
            triplets,
            training=training,
            precision=self.precision,
            seed=seed,
            progress=progress,
            tokens=self.batch_tokens,
            checkpoints=kept,
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
            batch_tokens=self.batch_tokens,
            backend=self.backend,
        )

    def save(self, folder: Path) -> None:
        """Write a plain sentence-transformers folder, usable without this package."""
        model = self.model
        with without_bars():
            model.save(str(folder), create_model_card=False, safe_serialization=True)


def check_backend(backend: str, precision: str, device: str | None) -> None:
    """Raise :class:`ClusterLLMError` for an unknown backend, or for what it cannot do."""
    if backend not in BACKENDS:
        raise ClusterLLMError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    if backend == "torch":
        return
    if any(importlib.util.find_spec(package) is None for package in ("onnx", "onnxruntime")):
        raise MissingExtraError("backend 'onnx'", "onnx")
    if precision == "bf16":
        raise ClusterLLMError("backend 'onnx' runs in fp32: leave precision out, or take backend 'torch'")
    if device not in (None, "cpu"):
        raise ClusterLLMError(f"backend 'onnx' runs on the CPU, not on {device!r}: take backend 'torch'")


def _check_positive(**settings: int | None) -> None:
    for name, value in settings.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ClusterLLMError(f"{name} must be a whole number of at least 1 or None, not {value!r}")


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
