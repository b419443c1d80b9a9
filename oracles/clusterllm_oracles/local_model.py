"""A causal language model of transformers and its tokenizer, each loaded when it is first needed."""

from __future__ import annotations

import hashlib
import threading
from functools import cached_property
from pathlib import Path
from typing import Any

from clusterllm_embedders.precision import resolve_precision
from clusterllm_embedders.sentence_transformer import without_bars
from clusterllm_oracles.dialogue import Dialogue
from clusterllm_plugins.failures import oracle_error
from clusterllm_plugins.questions import OracleError

UNLIMITED = 10**9  # tokens; some tokenizers say 10**30 where there is no limit

# The files of a folder that can change an answer; weights are read from safetensors only, never from a pickle.
_FILES = {".jinja", ".json", ".model", ".py", ".safetensors", ".txt"}


class LocalModel:
    """What answers: a folder, or a model of the hub by name.

    Args:
        source: The folder or the name.
        where: How errors begin.
        device: Where it runs; ``None`` = a GPU where there is one.
        precision: ``"fp32"``, ``"bf16"`` or ``"auto"``.
        revision: The branch, tag or commit on the hub.
        trust_remote_code: Whether the model may run code of its own.
        local_files_only: Whether nothing may be downloaded.
    """

    def __init__(
        self,
        source: str,
        where: str,
        *,
        device: str | None,
        precision: str,
        revision: str | None,
        trust_remote_code: bool,
        local_files_only: bool,
    ) -> None:
        path = Path(source).expanduser()
        # A name on the hub is "name" or "owner/name".
        is_folder = path.is_dir() or path.is_absolute() or source.startswith(".") or len(path.parts) > 2
        self._folder = path if is_folder else None
        self._source = source if self._folder is None else str(self._folder)
        self._where = where
        self._device = device
        self._precision = precision
        self._revision = revision
        self._settings = {
            "revision": revision or "main",
            "trust_remote_code": trust_remote_code,
            "local_files_only": local_files_only,
        }
        self._lock = threading.Lock()
        self._dialogue: Dialogue | None = None
        self._limit = UNLIMITED
        self._model: Any = None

    def check(self) -> None:
        """Raise :class:`OracleError` where a folder is named that holds no model."""
        if self._folder is not None and not (self._folder / "config.json").is_file():
            raise OracleError(
                f"{self._where}: there is no model in this folder (no config.json); name another, or one of the hub",
                fatal=True,
            )

    @cached_property
    def identity(self) -> str:
        """What tells it from others, without loading it: a digest of a folder's files, else the name on the hub.

        Raises:
            OracleError: If the folder cannot be read.
        """
        if self._folder is None:
            return f"{self._source}@{self._revision}" if self._revision else self._source
        self.check()
        digest = hashlib.sha256()
        try:
            for path in sorted(self._folder.iterdir()):
                if path.suffix in _FILES and path.is_file():
                    with path.open("rb") as file:
                        digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise self.fatal(error) from error
        return f"{self._folder.resolve().name}:{digest.hexdigest()[:16]}"

    @cached_property
    def device(self) -> str:
        """Where it runs.

        Raises:
            OracleError: If there is no such device.
        """
        import torch

        if self._device is None:
            if torch.cuda.is_available():
                return "cuda"
            return "mps" if torch.backends.mps.is_available() else "cpu"
        try:
            torch.empty(0, device=self._device)
        except Exception as error:
            raise self.fatal(error) from error
        return self._device

    @cached_property
    def precision(self) -> str:
        """The precision of the weights: ``"fp32"`` or ``"bf16"``."""
        return resolve_precision(self._precision, self.device)

    @property
    def dialogue(self) -> Dialogue:
        """Its tokenizer; the first call reads it, and the configuration.

        Raises:
            OracleError: If it cannot be read.
        """
        with self._lock:
            if self._dialogue is None:
                self.check()
                try:
                    self._dialogue = self._read()
                except Exception as error:
                    raise self.fatal(error) from error
            return self._dialogue

    @property
    def limit(self) -> int:
        """The most tokens that it can read."""
        _ = self.dialogue
        return self._limit

    @property
    def model(self) -> Any:
        """The model, ready to compute; the first call loads it.

        Raises:
            OracleError: If it cannot be loaded.
        """
        device, precision = self.device, self.precision
        with self._lock:
            if self._model is None:
                self.check()
                try:
                    self._model = self._load(precision).to(device).eval()
                except Exception as error:
                    raise self.fatal(error) from error
            return self._model

    def fatal(self, error: Exception) -> OracleError:
        """Return what stops the run: nothing can be answered."""
        return oracle_error(self._where, error, fatal=True)

    def _read(self) -> Dialogue:
        from transformers import AutoConfig, AutoTokenizer

        config = AutoConfig.from_pretrained(self._source, **self._settings)
        tokenizer = AutoTokenizer.from_pretrained(self._source, **self._settings)
        limits = (getattr(config, "max_position_embeddings", None), tokenizer.model_max_length)
        self._limit = min((limit for limit in limits if isinstance(limit, int) and limit > 0), default=UNLIMITED)
        return Dialogue(tokenizer)

    def _load(self, precision: str) -> Any:
        import torch
        import transformers

        release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
        # Given when it is loaded: a later conversion would round what must stay exact, such as rotary frequencies.
        kind = {
            "dtype" if release >= (4, 56) else "torch_dtype": {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        }
        with without_bars():
            return transformers.AutoModelForCausalLM.from_pretrained(
                self._source, use_safetensors=True, **kind, **self._settings
            )
