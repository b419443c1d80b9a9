"""What the components that are fitted with an oracle share: ``clusterllm`` and ``clusterllm_granularity``.

No postponed annotations here: spaCy checks ``[initialize]`` against those of ``initialize``, and reads no strings.
"""

import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from clusterllm_plugins.components import redaction_of
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.protocols import has_methods
from clusterllm_plugins.recording import Known
from clusterllm_plugins.settings import check_settings, cluster_range, seed_of
from clusterllm_plugins.spacy.base import ClusterLLMPipe
from clusterllm_plugins.spacy.corpora import CorpusReader
from clusterllm_plugins.spacy.material import Material, Reading


class _Wrapped:
    """A setting on its way through spaCy, which makes a pydantic model of all and dicts of all dataclasses in it."""

    def __init__(self, value: Any) -> None:
        self.value = value


AsItIs = Annotated[Any, PlainValidator(_Wrapped)]


class LearningPipe(ClusterLLMPipe):
    """A component that learns from a corpus and an oracle's answers.

    Attributes:
        reading: Where and of what it reads vectors.
        answers: What was asked in the fit of this process, and answered; it is not saved, since it holds texts.
    """

    reading: Reading
    answers: Known

    @abstractmethod
    def fit_material(
        self, material: Material, nlp: Language | None, oracle: Any, answers: str | Path | Known | None
    ) -> None:
        """Learn from a gathered corpus."""

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        corpus: CorpusReader | None = None,
        oracle: AsItIs = None,
        answers: AsItIs = None,
    ) -> None:
        """Learn from a corpus, asking ``oracle`` where it is not clear what belongs together.

        Args:
            get_examples: The pipeline's own examples; used where there is no ``corpus``.
            nlp: The pipeline.
            corpus: A reader, for example ``clusterllm.Jsonl.v1``.
            oracle: A registered name, ``{"name": ..., **settings}``, an :class:`Oracle`, or a model of spacy-llm;
                ``None`` asks nobody.
            answers: Answers already had: a path of JSON Lines, or (question, answer) pairs; they count against no cap.

        Raises:
            ClusterLLMError: If something given cannot be used; the message says what to do.
            OracleError: If the oracle says that no question can succeed.
        """
        oracle, answers = _unwrapped(oracle), _unwrapped(answers)
        pipeline = nlp or self._nlp()
        with self._named_errors():
            if corpus is None and oracle is None and answers is None and self._learns_with_another(pipeline):
                return
            material = self.reading.gather(self, pipeline, get_examples, corpus)
            if material is None:
                return
            _warn_of_steps(self.name, pipeline)
            self.fit_material(material, pipeline, _oracle_spec(oracle), answers)

    @property
    def leaves_number_open(self) -> bool:
        """Whether it takes the number of clusters from a granularity component before it, and lets that learn too."""
        return False

    def _learns_with_another(self, nlp: Language | None) -> bool:
        """Return whether a component after it lets it learn too, so that it needs no corpus and oracle of its own."""
        return False

    def fit(
        self,
        docs: Iterable[Doc],
        *,
        nlp: Language | None = None,
        oracle: Any = None,
        answers: str | Path | Known | None = None,
    ) -> None:
        """Learn from docs; a short form of :meth:`initialize`."""
        self.initialize(tuple, nlp=nlp, corpus=lambda _: docs, oracle=oracle, answers=answers)


def check_learning(settings: dict[str, Any]) -> None:
    """Raise :class:`ClusterLLMError` for settings of :class:`clusterllm_plugins.ClusterLLM` that have no meaning."""
    check_settings(settings)
    cluster_range(settings["n_clusters"], sys.maxsize)  # how many texts there are is not known yet
    seed_of(settings["random_state"])
    redaction_of(settings["redact"])


def _unwrapped(value: Any) -> Any:
    return value.value if isinstance(value, _Wrapped) else value


def _oracle_spec(oracle: Any) -> Any:
    """Return an oracle, or what :class:`ClusterLLM` makes one of; a model of spacy-llm is a function."""
    if callable(oracle) and not isinstance(oracle, Mapping) and not has_methods(oracle, "answer"):
        return {"name": "spacy-llm", "model": oracle}
    return oracle


def _warn_of_steps(name: str, nlp: Language | None) -> None:
    """Warn where ``spacy train`` would evaluate for thousands of steps although nothing learns by steps."""
    if nlp is None or not _called_by_spacy_train():
        return
    steps = nlp.config.get("training", {}).get("max_steps")
    if steps != 1 and not any(getattr(other, "is_trainable", False) for _, other in nlp.pipeline):
        warnings.warn(
            f"component {name!r}: nothing in this pipeline learns by steps, but training.max_steps is {steps}: "
            "give `spacy train` --training.max_steps 1, or use `spacy assemble`",
            ClusterLLMWarning,
            stacklevel=5,
        )


def _called_by_spacy_train() -> bool:
    """Return whether the pipeline is initialized to be trained; spaCy tells the components nothing of it."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "spacy.training.initialize":
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
