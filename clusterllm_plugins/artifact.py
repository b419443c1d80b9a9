"""Save and load a fitted model: a folder of JSON, safetensors and JSON Lines, never pickle.

``artifact.json`` is written last and holds a SHA-256 of every other file and of itself: a folder that was written
halfway, cut short or changed is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from clusterllm_plugins.errors import ArtifactError

FORMAT = 1
MANIFEST = "artifact.json"
ARRAYS = "arrays.safetensors"
ANSWERS = "answers.jsonl"
EMBEDDER = "embedder"

Arrays = dict[str, NDArray[Any]]


def write_artifact(
    folder: Path, content: dict[str, Any], arrays: Arrays, answers: list[str], embedder: Any | None
) -> None:
    """Write a fitted model; what stood there of an earlier one is replaced only when all is written.

    Args:
        folder: Made where missing.
        content: JSON-able.
        arrays: By name.
        answers: JSON lines of what was asked.
        embedder: Has ``save(folder)``, or ``None`` where its settings are enough.

    Raises:
        ArtifactError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as temporary:
            staged = Path(temporary)
            # Not save, which would hold the file in memory, too.
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, staged / ARRAYS)
            with (staged / ANSWERS).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{line}\n" for line in answers)
            # The library's files only their owner can read.
            os.chmod(staged / ARRAYS, stat.S_IMODE((staged / ANSWERS).stat().st_mode))
            if embedder is not None:
                embedder.save(staged / EMBEDDER)
            manifest = {"format": FORMAT, "content": content, "files": _digests(staged)}
            manifest["digest"] = _digest(_canonical(manifest))
            (staged / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")
            # The manifest goes first and comes last: without it the folder is no artifact.
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder / EMBEDDER, ignore_errors=True)
            for name in (ARRAYS, ANSWERS, EMBEDDER, MANIFEST):
                if (staged / name).exists():
                    os.replace(staged / name, folder / name)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written ({error.strerror}); give another folder") from error


def read_artifact(folder: Path) -> tuple[dict[str, Any], Arrays]:
    """Read a fitted model's content and arrays, after checking every file.

    Raises:
        ArtifactError: If the folder is not an artifact, of another format, incomplete or changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder}: not a fitted model (no {MANIFEST})")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        digest = manifest.pop("digest")
        files = manifest["files"]
        intact = digest == _digest(_canonical(manifest))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ArtifactError(f"{path}: damaged; fit and save the model again") from error
    if not intact:
        raise ArtifactError(f"{path}: damaged or changed; fit and save the model again")
    if manifest["format"] != FORMAT:
        raise ArtifactError(
            f"{folder}: has format {manifest['format']}, this version reads {FORMAT}; fit the model again"
        )
    for name, expected in files.items():
        try:
            actual = _file_digest(folder / name)
        except OSError as error:
            raise ArtifactError(f"{folder / name}: cannot be read ({error.strerror})") from error
        if actual != expected:
            raise ArtifactError(f"{folder / name}: damaged or changed; fit and save the model again")
    return manifest["content"], load_file(folder / ARRAYS)


def _digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below ``folder`` by its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _file_digest(path) for path in files}


def _canonical(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, ensure_ascii=False).encode()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
