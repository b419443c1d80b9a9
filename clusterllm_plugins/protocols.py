"""What an oracle and an embedder must be able to do, ours as well as a stranger's.

The protocols are checked by their *methods on the class* (:func:`check_oracle_protocol`,
:func:`check_embedder_protocol`): attributes are read from the instance only when they are needed, since
``isinstance`` against a runtime protocol would evaluate properties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.errors import PluginError
from clusterllm_plugins.questions import Answer, Question

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]
Keep = Callable[[Sequence[int], Vectors], None]


class Oracle(Protocol):
    """Something that answers questions: a language model, a person, recorded answers.

    Optional attributes, read by the session with the default in brackets:

    * ``batch_size`` (1), ``concurrency`` (1): at most so many questions a call, from so many threads;
    * ``uses_indices`` (False): whether the answer depends on a question's indices, not on its texts only;
    * ``check()``: raises :class:`OracleError` at once where no question could succeed (a missing key);
    * ``prepare(texts, embeddings)``: called once before the first question, with the plain embeddings;
    * ``max_retries`` (5), ``requests_per_minute``, ``tokens_per_minute``: for the session, which retries;
    * ``patience`` (600): where every call fails, how many seconds the session pauses in all before the run ends;
    * ``worst_case(question) -> Usage``: the most that one attempt can take; without it a cap on tokens or
      money is an error;
    * ``expected(question) -> Usage``: what one attempt takes, as far as can be told before; without it a quote has
      bounds only;
    * ``worst_case_of(prompt)`` and ``expected_of(prompt)``: the same of a prompt whose reply is free, as a name is;
    * ``describe(texts) -> Completion``: a name for a group of texts; where it has a parameter ``instruction``, it is
      given the perspective by that name, if there is one. An ``Answer`` has the name as it is to stand;
    * ``async answer_async(questions) -> Sequence[Answer]``, ``async describe_async(texts) -> Completion``, beside
      ``answer`` and ``describe``: called in their place where there is an event loop to be asked on; and
      ``async close_async()``, awaited there at the end;
    * ``describe_all(groups)``, beside it, likewise: an iterable of names for at most ``batch_size`` groups at once;
    * ``raise_on_failure`` (False): whether a question that fails for all its retries ends the run, instead of
      abstaining;
    * ``note``: what a reader of the results must know about the answers, for the report.

    It signals trouble with :class:`OracleError` and does not retry by itself.
    """

    @property
    def fingerprint(self) -> str:
        """Everything that could change an answer: model, prompt version, settings."""

    def answer(self, questions: Sequence[Question]) -> Iterable[Answer]:
        """Answer ``questions``, in order, one answer each."""


class Embedder(Protocol):
    """Something that turns texts into vectors.

    One that learns from the corpus also has ``fit(texts)``, called once by whoever fits first. One that can be
    saved has ``save(folder)``; its factory then restores it when called with ``path=folder`` and the settings
    it was made with. Also optional:

    * ``embed_each(texts, keep)``, beside ``embed`` and called in its place, with all texts at once: it calls
      ``keep(positions, vectors)`` with vectors, float32, shape (n_positions, dim), as soon as it has them, once for
      each position and from whichever threads; what was kept stays where the rest fails. For one that is paid.
    * ``usage``: what its calls have taken so far, a ``Usage``, for the report;
    * ``expected(texts) -> Usage`` and ``worst_case(texts) -> Usage``: what embedding texts takes, for a quote.
    """

    @property
    def fingerprint(self) -> str:
        """Everything that could change a vector: model, weights, precision, prompt."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, float32, shape (n_texts, dim)."""


class TrainableEmbedder(Embedder, Protocol):
    """An embedder that can be fine-tuned on triplets.

    Where ``finetune`` has a parameter ``checkpoints``, it is given a folder by that name, or nothing: there it may keep
    the state of a run, so that one that was killed goes on, and the result, so that it is not made again.
    """

    def finetune(
        self,
        texts: Sequence[str],
        triplets: NDArray[np.int64],
        *,
        seed: int = 0,
        progress: bool = False,
    ) -> TrainableEmbedder:
        """Return a *new* embedder that has learnt from triplets; this one stays as it is.

        Args:
            texts: The texts that the triplets point into.
            triplets: Positions (anchor, chosen, rejected), shape (n_triplets, 3).
            seed: Decides the order of the triplets.
            progress: Whether to show a progress bar.
        """

    def save(self, folder: Path) -> None:
        """Write into ``folder`` what the factory needs to restore this embedder."""


def has_methods(component: object, *names: str) -> bool:
    """Return whether the class of ``component`` has all these methods.

    An instance that stands for others, and cannot do what they cannot, sets that method to ``None``.
    """
    own = getattr(component, "__dict__", {})
    return all(callable(getattr(type(component), name, None)) and own.get(name, True) is not None for name in names)


def is_trainable(embedder: Embedder) -> bool:
    """Return whether ``embedder`` can be fine-tuned and saved."""
    return has_methods(embedder, "embed", "finetune", "save")


def check_oracle_protocol(oracle: object, name: str) -> None:
    """Raise :class:`PluginError` unless ``oracle`` has the methods of an :class:`Oracle`."""
    if not has_methods(oracle, "answer"):
        raise PluginError(f"oracle {name!r}: {type(oracle).__name__} has no method answer(questions)")


def check_embedder_protocol(embedder: object, name: str) -> None:
    """Raise :class:`PluginError` unless ``embedder`` has the methods of an :class:`Embedder`."""
    if not has_methods(embedder, "embed"):
        raise PluginError(f"embedder {name!r}: {type(embedder).__name__} has no method embed(texts)")


def optional(component: object, name: str, default: Any = None) -> Any:
    """Return an optional attribute of a component, or ``default``."""
    value = getattr(component, name, None)
    return default if value is None else value
