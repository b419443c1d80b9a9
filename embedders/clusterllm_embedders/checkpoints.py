"""Checkpoints of a fine-tuning: a killed run goes on from the last one, and ends with the same weights to the last bit.

A folder gets one safetensors file for each state, named by a digest of all that decides the result. The tensors are in
its body, the rest is JSON in its head, with a checksum. A file is on disk as a whole before it takes its name.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterllm_plugins.errors import ClusterLLMWarning

if TYPE_CHECKING:
    import torch

VERSION = 1
SECONDS = 60.0  # between checkpoints
SHARE = 20  # and at least so many times what writing one takes: at most a twentieth of the time goes there
KEPT = 2  # files of each kind in a folder; those that were used last stay
_ABANDONED = 3600.0  # seconds after which a file that was never finished is deleted

Tensors = dict[str, "torch.Tensor"]


class Checkpoints:
    """The checkpoints of one fine-tuning in a folder.

    Whatever is wrong with a file or the folder is warned of, and training goes on without it: a checkpoint saves time
    and decides nothing.

    Args:
        folder: Made where missing.
        identity: All that decides the result, JSON-able.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        said = json.dumps({"version": VERSION, **identity}, sort_keys=True)
        self._identity = hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
        self._folder = Path(folder)
        self._written = time.monotonic()
        self._took = 0.0
        self._can_write = True

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint. Which steps have one changes nothing in the result."""
        return self._can_write and time.monotonic() - self._written >= max(SECONDS, SHARE * self._took)

    def put(self, kind: str, tensors: Tensors, state: Mapping[str, Any]) -> bool:
        """Write a checkpoint in place of the one before; return whether that could be done.

        Args:
            kind: ``"training"`` or ``"tuned"``.
            tensors: By name.
            state: The rest, JSON-able.
        """
        from safetensors.torch import save_file

        start = time.monotonic()
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        head = {"identity": self._identity, "checksum": _checksum(own, state), "state": json.dumps(state)}
        target = self._path(kind)
        name = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._folder, prefix=f".{target.name}-")
            os.close(descriptor)
            save_file(own, name, metadata=head)
            _to_disk(Path(name))
            os.replace(name, target)
            if os.name == "posix":
                _to_disk(self._folder)
        except Exception as error:  # safetensors raises its own, without a common base
            if name is not None:
                Path(name).unlink(missing_ok=True)
            if self._can_write:
                self._warn(f"cannot be written ({_reason(error)}); a killed run will start again")
            self._can_write = False
            return False
        self._written = time.monotonic()
        self._took = self._written - start
        self._tidy(kind)
        return True

    def get(self, kind: str) -> tuple[Tensors, dict[str, Any]] | None:
        """Return the tensors and the state of the last checkpoint, or None where there is none that can be used."""
        from safetensors import safe_open

        path = self._path(kind)
        if not path.exists():
            return None
        try:
            with safe_open(str(path), framework="pt") as file:
                head = file.metadata() or {}
                tensors: Tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            state: dict[str, Any] = json.loads(head["state"])
            if head["identity"] != self._identity or head["checksum"] != _checksum(tensors, state):
                raise ValueError("the checksum is another one")
            os.utime(path)  # used last
        except Exception as error:
            self._warn(f"{path.name} is damaged ({_reason(error)}); fine-tuning starts again")
            return None
        return tensors, state

    def remove(self, kind: str) -> None:
        """Delete a checkpoint, if it is there."""
        with suppress(OSError):
            self._path(kind).unlink(missing_ok=True)

    def _path(self, kind: str) -> Path:
        return self._folder / f"{self._identity[:32]}.{kind}.safetensors"

    def _tidy(self, kind: str) -> None:
        """Delete the oldest files of a kind, and what killed runs did not finish."""
        with suppress(OSError):  # another run may tidy, too
            files = sorted(self._folder.glob(f"*.{kind}.safetensors"), key=lambda path: -path.stat().st_mtime_ns)
            for path in [path for path in files if path != self._path(kind)][KEPT - 1 :]:
                path.unlink()
            for path in self._folder.glob(".*.safetensors-*"):
                if time.time() - path.stat().st_mtime > _ABANDONED:
                    path.unlink()

    def _warn(self, what: str) -> None:
        warnings.warn(f"checkpoints of the fine-tuning in {self._folder}: {what}", ClusterLLMWarning, stacklevel=3)


def _checksum(tensors: Tensors, state: Mapping[str, Any]) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return reason.strip().split("\n", 1)[0]
