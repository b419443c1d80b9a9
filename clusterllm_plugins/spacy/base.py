"""What the three components share: streams and errors, saving, pickling.

A component is a ``Pipe`` and no ``TrainablePipe``: it learns once from a corpus, in ``initialize``, and not by steps.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import srsly
from numpy.typing import NDArray
from spacy import util
from spacy.language import Language
from spacy.pipeline import Pipe
from spacy.tokens import Doc

from clusterllm_plugins.errors import ArtifactError, ClusterLLMError, UnfittedError

FORMAT = 1

Arrays = dict[str, NDArray[Any]]


class ClusterLLMPipe(Pipe):
    """The base of the components.

    Args:
        nlp: The pipeline that it is made for; ``None`` where there is none.
        name: Its name there.
        settings: The arguments of its constructor, from which a copy is made.
    """

    def __init__(self, nlp: Language | None, name: str, settings: Mapping[str, Any]) -> None:
        self.name = name
        self._settings = dict(settings)
        # Not a plain reference: a component may outlive its pipeline, in another one that took it over.
        self._nlp = weakref.ref(nlp) if nlp is not None else lambda: None
        if nlp is not None:
            _require_this_package(nlp)
        # The folder of a model that came as bytes. It is loaded when it is first used: its files must stay until then.
        self._files: tempfile.TemporaryDirectory[str] | None = None

    @property
    @abstractmethod
    def fitted(self) -> bool:
        """Whether it can be applied."""

    @abstractmethod
    def predict(self, docs: list[Doc]) -> Any:
        """Return what belongs on each doc; leaves the docs as they are."""

    @abstractmethod
    def set_annotations(self, docs: list[Doc], predictions: Any) -> None:
        """Put what :meth:`predict` returned on the docs."""

    @abstractmethod
    def _unfitted(self) -> str:
        """Return what to do where the component is not fitted."""

    @abstractmethod
    def _state(self) -> tuple[dict[str, Any], Arrays]:
        """Return what was learnt: JSON-able, and arrays."""

    @abstractmethod
    def _set_state(self, state: dict[str, Any], arrays: Arrays, folder: Path | None) -> None:
        """Take what :meth:`_state` returned; ``folder`` holds a model's files where there are any."""

    def _save_model(self, folder: Path) -> None:
        """Write a model's files into ``folder``, where there are any."""

    def __call__(self, doc: Doc) -> Doc:
        """Annotate one doc."""
        self._require_fitted()
        self.set_annotations([doc], self.predict([doc]))
        return doc

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of docs, in order.

        A batch that fails is tried again doc by doc: the error handler gets the docs that fail, the rest go on.
        A component that is not fitted always raises.
        """
        self._require_fitted()
        spare_threads_in_a_worker()
        for batch in util.minibatch(stream, batch_size):  # type: ignore[no-untyped-call]
            yield from self._annotated(list(batch))

    def _annotated(self, docs: list[Doc]) -> list[Doc]:
        try:
            self.set_annotations(docs, self.predict(docs))
            return docs
        except Exception as error:
            if len(docs) > 1:
                return [done for doc in docs for done in self._annotated([doc])]
            self.get_error_handler()(self.name, self, docs, error)
            return []

    def _require_fitted(self) -> None:
        if not self.fitted:
            raise UnfittedError(f"component {self.name!r} is not fitted: {self._unfitted()}")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Say in an error which component it comes from."""
        try:
            yield
        except ClusterLLMError as error:
            if not str(error).startswith("component "):
                error.args = (f"component {self.name!r}: {error}",)
            raise

    # Saving: `cfg` is JSON, `arrays` safetensors, `model/` a folder; from bytes the same, packed as msgpack.

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Write the component to a folder."""
        state, arrays = self._state()
        writers: dict[str, Callable[[Path], None]] = {
            "cfg": lambda target: srsly.write_json(target, {"format": FORMAT, **state}),
            "arrays": lambda target: _write(target, _packed_arrays(arrays)),
            "model": self._replace_model,
        }
        util.to_disk(path, writers, list(exclude))

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> Self:
        """Read what :meth:`to_disk` wrote.

        Raises:
            ArtifactError: If the folder is not a component of ours, or a damaged one.
        """
        folder = Path(path)
        if "cfg" in set(exclude):
            return self
        try:
            state = srsly.read_json(folder / "cfg")
            arrays = _unpacked_arrays((folder / "arrays").read_bytes())
        except Exception as error:  # whatever a broken file brings about
            raise self._damaged(str(folder), error) from error
        model = folder / "model"
        self._restore(state, arrays, model if model.is_dir() else None, str(folder))
        return self

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        """Return the component as bytes."""
        state, arrays = self._state()
        writers = {
            "cfg": lambda: srsly.json_dumps({"format": FORMAT, **state}),
            "arrays": lambda: _packed_arrays(arrays),
            "model": lambda: _packed_folder(self._save_model),
        }
        packed: bytes = util.to_bytes(writers, list(exclude))
        return packed

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> Self:
        """Read what :meth:`to_bytes` returned.

        Raises:
            ArtifactError: If it is something else.
        """
        if "cfg" in set(exclude):
            return self
        try:
            content = srsly.msgpack_loads(bytes_data)
            state = srsly.json_loads(content["cfg"])
            arrays = _unpacked_arrays(content["arrays"])
            files = srsly.msgpack_loads(content["model"])
        except Exception as error:
            raise self._damaged("bytes", error) from error
        folder = _unpacked_folder(files) if files else None
        self._restore(state, arrays, Path(folder.name) if folder is not None else None, "bytes")
        self._files = folder
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Pipe is a C class whose pickling knows nothing of what Python classes add to it.
        handler = getattr(self, "error_handler", None)
        return _rebuilt, (type(self), self.name, self._settings, self.to_bytes(), handler)

    def _restore(self, state: Any, arrays: Arrays, model: Path | None, where: str) -> None:
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            found = state.get("format") if isinstance(state, dict) else None
            raise ArtifactError(
                f"component {self.name!r}: {where} has format {found}, this version reads {FORMAT}; fit it again"
            )
        try:
            with self._named_errors():
                self._set_state(state, arrays, model)
        except (KeyError, TypeError) as error:
            raise self._damaged(where, error) from error

    def _damaged(self, where: str, error: Exception) -> ArtifactError:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return ArtifactError(f"component {self.name!r}: cannot be read from {where} ({reason}); fit and save it again")

    def _replace_model(self, target: Path) -> None:
        """Write the model's files beside ``target`` and move them there: they may be read from it just now."""
        import shutil

        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".model-") as staged:
            folder = Path(staged) / "model"
            folder.mkdir()
            self._save_model(folder)
            shutil.rmtree(target, ignore_errors=True)
            if any(folder.iterdir()):
                os.replace(folder, target)


def _require_this_package(nlp: Language) -> None:
    """Name this package among the pipeline's requirements, which ``spacy package`` gives to pip.

    spaCy does so itself for packages that it finds by ``top_level.txt``, which not every build tool writes.
    """
    from clusterllm_plugins import __version__

    requirements = nlp.meta.setdefault("requirements", [])
    mine = f"clusterllm-plugins[spacy]{util.get_minor_version_range(__version__)}"
    if mine not in requirements:
        requirements.append(mine)


def spare_threads_in_a_worker() -> None:
    """Use one thread in a worker of ``nlp.pipe(n_process=...)``.

    A forked child of a process that has used torch hangs in torch's thread pool, and several workers with all
    threads each are slower than with one.
    """
    if multiprocessing.parent_process() is None:
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)


def _rebuilt(
    kind: type[ClusterLLMPipe],
    name: str,
    settings: dict[str, Any],
    state: bytes,
    handler: Callable[..., Any] | None,
) -> ClusterLLMPipe:
    made: ClusterLLMPipe = kind(None, name, **settings)
    if handler is not None:
        made.set_error_handler(handler)
    return made.from_bytes(state)


def _write(target: Path, data: bytes) -> None:
    target.write_bytes(data)


def _packed_arrays(arrays: Arrays) -> bytes:
    from safetensors.numpy import save

    packed: bytes = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return packed


def _unpacked_arrays(data: bytes) -> Arrays:
    from safetensors.numpy import load

    return dict(load(data))


def _packed_folder(save: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(folder)
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
    packed: bytes = srsly.msgpack_dumps(files)
    return packed


def _unpacked_folder(files: Mapping[str, bytes]) -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="clusterllm-")
    root = Path(folder.name).resolve()
    for name, data in files.items():
        path = (root / name).resolve()
        if not path.is_relative_to(root):
            raise ArtifactError(f"the file {name!r} of a saved model would be written elsewhere")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
