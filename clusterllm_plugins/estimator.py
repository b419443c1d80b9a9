"""``ClusterLLM``: the scikit-learn-style estimator, a thin shell around :mod:`clusterllm_plugins.fitting`."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import NotFittedError

from clusterllm_plugins.asking import Session, known_key
from clusterllm_plugins.components import (
    EmbedderSpec,
    redaction_of,
    resolve_embedder,
    resolve_redaction,
)
from clusterllm_plugins.corpus import Corpus, Positions, check_texts, make_corpus
from clusterllm_plugins.embedding import check_embeddings, fit_if_needed, usage_since
from clusterllm_plugins.errors import ClusterLLMError, DataError
from clusterllm_plugins.explaining import Background, explain_text
from clusterllm_plugins.fitting import FitSettings, Fitted, embed_corpus, fit_paper
from clusterllm_plugins.guided.fit import fit_auto
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.protocols import Embedder, Labels, Oracle, Vectors, has_methods, optional
from clusterllm_plugins.questions import Answer, OracleError, Question, Usage
from clusterllm_plugins.quoting import first_questions, quote_auto, quote_embedding, quote_paper
from clusterllm_plugins.recording import Known, answer_lines, recorded
from clusterllm_plugins.settings import check_settings, cluster_range, seed_of
from clusterllm_plugins.space import Space
from clusterllm_plugins.store import AnswerStore
from clusterllm_plugins.vectors import assigned, blocks

Spec = str | Mapping[str, Any]

CHECKPOINTS = "finetuning"  # the folder in the cache


class ClusterLLM(ClusterMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Cluster texts with the help of an oracle, after ClusterLLM (Zhang, Wang and Shang, EMNLP 2023).

    Args:
        embedder: A registered name, ``{"name": ..., **settings}``, an :class:`Embedder`, or ``"auto"``: minilm where
            it is installed, else lsa.
        oracle: Likewise; ``None`` asks nobody.
        n_clusters: A number, ``(low, high)``, or ``"auto"``.
        method: ``"paper"`` is ClusterLLM as published, ``"auto"`` the best this package knows.
        max_questions: Hard cap on distinct questions about perspective, per iteration.
        iterations: 2 is the paper's "-iter".
        max_granularity_questions: Hard cap on distinct pair questions; asked only where ``n_clusters`` is open.
        max_cost: Hard cap in US dollars, or ``None``.
        max_tokens: Hard cap on tokens, or ``None``.
        instruction: The perspective in words, for example ``"in terms of the customer's intent"``.
        demonstrations: Worked examples ``(left, right, "yes" | "no")`` shown with pair questions.
        redact: Redactors, applied in this order before any text goes anywhere.
        store: Path of the SQLite file that keeps the answers; ``None`` keeps them in memory.
        progress: Whether to show progress bars on a terminal.
        random_state: A seed.
        cache: A folder that keeps the embedder's vectors of the texts that are fitted, with their hashes and without
            the texts: a second fit embeds nothing, an interrupted one goes on. ``None`` keeps nothing. Vectors of a
            fine-tuned embedder, and those of :meth:`predict`, are not kept; its weights are, of the last two
            fine-tunings (once the size of the model each, three times while one is made).

    Attributes:
        labels_: int64, shape (n_texts,); -1 for an empty text.
        n_clusters_: How many clusters there are.
        cluster_labels_: A name per cluster.
        cluster_scores_: Soft-assignment probability of each text's own cluster among its nearest, shape (n_texts,).
        cluster_centers_: What texts are assigned by, shape (n_clusters, dim): a normalised vector belongs to the
            cluster of the smallest squared distance plus offset. Of ``"paper"`` the centroids; of ``"auto"`` the
            weights of the classifier that learnt from the answers.
        cluster_offsets_: Shape (n_clusters,); zeros where the centres are centroids.
        embeddings_: Vectors of all texts after refinement, shape (n_texts, dim); zeros for an empty text.
        questions_: What was asked in this fit, known answers excluded.
        answers_: The answers to it.
        usage_: What asking took.
        report_: What happened, JSON-able; ``embedding`` is what an embedder that counts it has taken in this fit.
        space_: How further texts become vectors: the embedder, and what the answers taught.
    """

    def __init__(
        self,
        embedder: Spec | Embedder = "auto",
        oracle: Spec | Oracle | None = None,
        n_clusters: int | tuple[int, int] | str = "auto",
        method: str = "auto",
        max_questions: int = 1024,
        iterations: int = 1,
        max_granularity_questions: int = 594,
        max_cost: float | None = None,
        max_tokens: int | None = None,
        instruction: str | None = None,
        demonstrations: Sequence[tuple[str, str, str]] = (),
        redact: Sequence[Any] = (),
        store: str | Path | None = None,
        progress: bool = True,
        random_state: Any = 0,
        cache: str | Path | None = None,
    ) -> None:
        self.embedder = embedder
        self.oracle = oracle
        self.n_clusters = n_clusters
        self.method = method
        self.max_questions = max_questions
        self.iterations = iterations
        self.max_granularity_questions = max_granularity_questions
        self.max_cost = max_cost
        self.max_tokens = max_tokens
        self.instruction = instruction
        self.demonstrations = demonstrations
        self.redact = redact
        self.store = store
        self.progress = progress
        self.random_state = random_state
        self.cache = cache

    def __sklearn_clone__(self) -> ClusterLLM:
        # scikit-learn would copy an embedder or oracle object deeply: models, clients and locks.
        return type(self)(**self.get_params(deep=False))

    def fit(
        self,
        texts: Sequence[str],
        y: object = None,
        *,
        embeddings: Any = None,
        answers: Iterable[tuple[Question, Answer]] = (),
    ) -> ClusterLLM:
        """Cluster ``texts``.

        Args:
            texts: Shape (n_texts,).
            y: Ignored; scikit-learn passes it.
            embeddings: Precomputed vectors, float32, shape (n_texts, dim); they are refined by a linear map.
            answers: (question, answer) pairs already had; they count against no cap.

        Raises:
            ClusterLLMError: If something given cannot be used; the message says what to do.
            OracleError: If the oracle says that no question can succeed.
        """
        with self._stoppable() as halt:
            plugins, corpus, settings = self._prepared(texts)
            known = _checked_answers(answers, corpus)
            oracle = self._oracle(plugins)
            space, spec, vectors = self._embedded(plugins, corpus, embeddings)
            with AnswerStore(self.store) as store:
                session = self._session(plugins, oracle, store, known, corpus, vectors, halt)
                try:
                    fitted = self._fitted(corpus, space, vectors, session, known, settings)
                except OracleError as error:
                    if session is not None:  # what was paid for goes to the caller, at least
                        error.asked, error.usage = session.transcript, session.usage
                        error.tally = session.counts
                    raise
        self._take(fitted, corpus, spec, session)
        self._answer_lines = list(answer_lines(recorded(session), list(texts), corpus.texts))
        self._background = Background.of_fit(corpus, known)
        return self

    def fit_predict(
        self,
        texts: Sequence[str],
        y: object = None,
        *,
        embeddings: Any = None,
        answers: Iterable[tuple[Question, Answer]] = (),
    ) -> Labels:
        """Cluster ``texts`` and return ``labels_``; the arguments are those of :meth:`fit`."""
        return self.fit(texts, embeddings=embeddings, answers=answers).labels_

    def predict(self, texts: Sequence[str], *, embeddings: Any = None) -> Labels:
        """Return the nearest cluster of new texts, int64, shape (n_texts,); -1 for an empty one. Asks nobody.

        Args:
            texts: Shape (n_texts,).
            embeddings: Their vectors, shape (n_texts, dim), of the embedder that the model was fitted with.

        Raises:
            NotFittedError: If the model is not fitted.
            ClusterLLMError: If there is no embedder and no embeddings are given, or a redactor fails.
        """
        return self.predict_with_scores(texts, embeddings=embeddings)[0]

    def predict_with_scores(
        self, texts: Sequence[str], *, embeddings: Any = None
    ) -> tuple[Labels, NDArray[np.float64]]:
        """Return what :meth:`predict` does, and each text's ``cluster_scores_``, shape (n_texts,)."""
        self._check_fitted()
        listed = check_texts(texts)
        given = None if embeddings is None else check_embeddings(embeddings, len(listed))
        labels, scores = np.full(len(listed), -1, dtype=np.int64), np.zeros(len(listed))
        for part in blocks(len(listed)):
            vectors, kept = self._vectors(listed[part], None if given is None else given[part])
            rows = part.start + kept
            labels[rows], scores[rows] = assigned(vectors, kept, self.cluster_centers_, self.cluster_offsets_)
        return labels, scores

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of new texts in the refined space, float32, shape (n_texts, dim); zeros for an empty one.

        Raises:
            NotFittedError: If the model is not fitted.
            ClusterLLMError: If there is no embedder, or a redactor fails.
        """
        return self._vectors(texts, None)[0]

    def stop(self) -> None:
        """End a fit that runs on another thread: nothing more is asked, and ``fit`` raises :class:`OracleError`.

        Answers to what is in flight are awaited and kept. Where no fit is running nothing happens.
        """
        halt: threading.Event | None = getattr(self, "_halt", None)
        if halt is not None:
            halt.set()

    def add_plugin(self, plugin: object) -> ClusterLLM:
        """Let the hooks of ``plugin`` take part in each fit of this model; a clone or a saved model has none of them.

        Args:
            plugin: A module or an object whose functions carry ``hookimpl``, such as an ``AnswerLog``.

        Returns:
            The model itself.

        Raises:
            PluginError: If it misspells a hook.
        """
        Plugins(discover=False).register(plugin, "added")
        self._added = [*getattr(self, "_added", []), plugin]
        return self

    def check(self, texts: Sequence[str]) -> None:
        """Raise what :meth:`fit` would raise before it does any work: settings, texts, components, a missing key.

        Raises:
            ClusterLLMError: If something given cannot be used; the message says what to do.
            OracleError: If the oracle says that no question can succeed.
        """
        plugins, _, _ = self._prepared(texts, warn=False)
        self._oracle(plugins)
        resolve_embedder(plugins, self.embedder)
        if self.store is not None:
            AnswerStore(self.store).close()

    def _vectors(self, texts: Sequence[str], embeddings: Any) -> tuple[Vectors, Positions]:
        """Return the refined vectors of new texts, zeros for an empty one, and the positions of the others."""
        self._check_fitted()
        redaction = redaction_of(self.redact)
        clean = [redaction.text(text) for text in check_texts(texts)]
        kept = np.array([place for place, text in enumerate(clean) if text.strip()], dtype=np.int64)
        vectors = np.zeros((len(clean), self.cluster_centers_.shape[1]), dtype=np.float32)
        if not len(kept):
            return vectors, kept
        if embeddings is not None:
            some = self.space_.map(check_embeddings(embeddings, len(clean))[kept])
        else:
            some = self.space_.embed([clean[place] for place in kept], self.progress)
        if some.shape[1] != vectors.shape[1]:
            raise DataError(
                f"the embedder gave vectors of size {some.shape[1]}, the model was fitted on {vectors.shape[1]}"
            )
        vectors[kept] = some
        return vectors, kept

    def quote(self, texts: Sequence[str], *, embeddings: Any = None) -> dict[str, Any]:
        """Return what :meth:`fit` would ask, what that is expected to take and what it takes at most; asks nothing.

        For ``method="paper"`` the texts are embedded (set ``cache``, and a fit does not pay for that again), and the
        numbers of questions are those of a fit; ``"auto"`` decides as it goes: its numbers are bounds. Retries are not
        counted.

        Returns:
            ``questions`` (``perspective``, ``granularity`` and ``names``); ``input_tokens``, ``output_tokens`` and
            ``cost`` (US dollars) as they are expected, and each with ``_at_most``, a bound that is never passed;
            ``exact``: whether the numbers of questions are exact. What the oracle cannot say is ``None``. Of an
            embedder that says what it takes also ``embedding``, for all texts: those in the cache are not paid again.
        """
        plugins, corpus, settings = self._prepared(texts)
        oracle = plugins.oracle(self.oracle) if self.oracle is not None else None
        paid = {} if embeddings is not None else quote_embedding(corpus, resolve_embedder(plugins, self.embedder)[0])
        if self.method == "auto" and oracle is not None:
            return quote_auto(corpus, oracle, plugins, settings, self.max_tokens, self.max_cost) | paid
        _, _, vectors = self._embedded(plugins, corpus, embeddings)
        return quote_paper(corpus, vectors, oracle, plugins, settings) | paid

    def first_questions(self, texts: Sequence[str], n: int = 3, *, embeddings: Any = None) -> list[Question]:
        """Return the first questions of :meth:`fit`, at most ``n``, redacted as they would be sent; asks nothing.

        They are those of a fit without known or stored answers. ``prompts.render`` gives the prompt of each.

        Raises:
            ClusterLLMError: If there is no oracle, or something given cannot be used.
        """
        plugins, corpus, settings = self._prepared(texts, warn=False)
        if self.oracle is None:
            raise ClusterLLMError("without an oracle nothing is sent: set one to see its questions")
        oracle = plugins.oracle(self.oracle)
        space, _, vectors = self._embedded(plugins, corpus, embeddings)
        return first_questions(
            lambda session: self._fitted(corpus, space, vectors, session, [], settings), oracle, corpus.redaction, n
        )

    def explain(self, i: int) -> dict[str, Any]:
        """Return why text ``i`` of the fit is where it is, JSON-able; asks nobody and needs no embedder.

        Args:
            i: Its position in the list given to :meth:`fit`.

        Returns:
            * ``position``, and ``text`` as redacted: of a loaded model ``None`` unless a question shows it, as texts
              are not saved.
            * ``cluster_id`` (-1 for an empty text), ``cluster_label`` and ``cluster_score``.
            * ``nearest_other``: ``cluster_id`` and ``cluster_label`` of the best cluster but its own, ``None`` where
              there is none; ``margin``: how much farther its normalised vector is from that cluster's centre than
              from its own one, in squared distance plus offset, as :meth:`predict` compares. It is negative where
              an answer put the text into a farther cluster.
            * ``questions``: those about the text or an equal one. Each has ``role`` (``"anchor"``, or ``"exemplar"``
              with ``chosen``: whether its group was), ``kind``, ``known`` (whether the answer was given to the fit),
              ``anchor`` (``position, text, cluster_id, cluster_label``), ``candidates`` (``positions``, ``texts``,
              and ``cluster_ids`` and ``cluster_labels`` of where these ended up, the most frequent first),
              ``answer``, ``chosen_cluster_id`` (``None`` where no group was chosen) and ``error``.
            * ``note``: ``None``, or that the text is empty.

        Raises:
            NotFittedError: If the model is not fitted.
            DataError: If there is no such text.
        """
        self._check_fitted()
        return explain_text(
            i,
            labels=self.labels_,
            scores=self.cluster_scores_,
            vectors=self.embeddings_,
            centroids=self.cluster_centers_,
            offsets=self.cluster_offsets_,
            names=self.cluster_labels_,
            asked=list(zip(self.questions_, self.answers_, strict=True)),
            background=self._background,
        )

    def save(self, folder: str | Path) -> None:
        """Write the fitted model to ``folder``; :meth:`load` gives it back exactly.

        Raises:
            NotFittedError: If the model is not fitted.
            ArtifactError: If the folder cannot be written.
        """
        from clusterllm_plugins.persistence import save_model

        self._check_fitted()
        save_model(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, embedder: Spec | Embedder | None = None) -> ClusterLLM:
        """Read a model that :meth:`save` wrote: same labels, same predictions.

        Args:
            folder: Where it is.
            embedder: The embedder, where the model was fitted on precomputed vectors or on an object's.

        Raises:
            ArtifactError: If the folder is not a fitted model, or a damaged one.
        """
        from clusterllm_plugins.persistence import load_model

        return load_model(cls, Path(folder), embedder)

    def _prepared(self, texts: Sequence[str], *, warn: bool = True) -> tuple[Plugins, Corpus, FitSettings]:
        check_settings(self.get_params(deep=False))
        plugins = Plugins()
        for number, plugin in enumerate(getattr(self, "_added", [])):
            plugins.register(plugin, f"added:{number}")
        redaction = resolve_redaction(plugins, self.redact)
        corpus = make_corpus(texts, redaction, warn=warn, is_asked_about=self.oracle is not None)
        low, high = cluster_range(self.n_clusters, len(corpus.distinct))
        settings = FitSettings(
            low=low,
            high=high,
            max_questions=self.max_questions,
            iterations=self.iterations,
            max_granularity_questions=self.max_granularity_questions,
            instruction=self.instruction,
            # Here, so that a redactor that fails on one stops the fit before anything is sent.
            demonstrations=tuple(corpus.redaction.demonstrations(self.demonstrations)),
            seed=seed_of(self.random_state),
            progress=self.progress,
        )
        return plugins, corpus, settings

    @contextmanager
    def _stoppable(self) -> Iterator[threading.Event]:
        """Let :meth:`stop` end the fit as long as it runs."""
        self._halt: threading.Event | None = threading.Event()
        try:
            yield self._halt
        finally:
            self._halt = None

    def _oracle(self, plugins: Plugins) -> Oracle | None:
        if self.oracle is None:
            return None
        oracle = plugins.oracle(self.oracle)
        if has_methods(oracle, "check"):
            oracle.check()  # type: ignore[attr-defined]  # before the texts are embedded for nothing
        return oracle

    def _embedded(
        self, plugins: Plugins, corpus: Corpus, embeddings: Any
    ) -> tuple[Space, EmbedderSpec | None, Vectors]:
        """Return the space, how its embedder was made, and the plain vectors of all texts."""
        if embeddings is not None and self.embedder == "auto":
            space, spec = Space(None, frozen=True), None
        else:
            embedder, spec = resolve_embedder(plugins, self.embedder)
            fit_if_needed(embedder, [corpus.texts[position] for position in corpus.kept], self.progress)
            checkpoints = None if self.cache is None else Path(self.cache) / CHECKPOINTS
            before = optional(embedder, "usage")
            space = Space(embedder, frozen=embeddings is not None, checkpoints=checkpoints, taken_before=before)
        if embeddings is not None:
            return space, spec, check_embeddings(embeddings, len(corpus.texts))
        return space, spec, embed_corpus(corpus, space, self.progress, self.cache)

    def _fitted(
        self,
        corpus: Corpus,
        space: Space,
        vectors: Vectors,
        session: Session | None,
        known: Known,
        settings: FitSettings,
    ) -> Fitted:
        if self.method == "paper":
            return fit_paper(corpus, space, vectors, session, known, settings)
        return fit_auto(corpus, space, vectors, session, known, settings, self.max_tokens)

    def _session(
        self,
        plugins: Plugins,
        oracle: Oracle | None,
        store: AnswerStore,
        known: Known,
        corpus: Corpus,
        vectors: Vectors,
        halt: threading.Event,
    ) -> Session | None:
        if oracle is None:
            return None
        session = Session(
            oracle,
            plugins=plugins,
            store=store,
            redaction=corpus.redaction,
            known={known_key(question): answer for question, answer in known},
            max_tokens=self.max_tokens,
            max_cost=self.max_cost,
            progress=self.progress,
            halt=halt,
        )
        session.prepare(corpus.texts, vectors)
        return session

    def _take(self, fitted: Fitted, corpus: Corpus, spec: EmbedderSpec | None, session: Session | None) -> None:
        """Set the fitted attributes."""
        self.labels_ = fitted.labels
        self.n_clusters_ = len(fitted.centroids)
        self.cluster_labels_ = fitted.names
        self.cluster_scores_: NDArray[np.float64] = fitted.scores
        self.cluster_centers_ = fitted.centroids
        self.cluster_offsets_: NDArray[np.float32] = fitted.offsets
        self.embeddings_ = fitted.vectors
        transcript = session.transcript if session else []
        self.questions_ = [question for question, _ in transcript]
        self.answers_ = [answer for _, answer in transcript]
        self.usage_ = session.usage if session else Usage()
        self.report_ = {
            "method": self.method,
            "embedder": fitted.space.embedder.fingerprint if fitted.space.embedder else "precomputed",
            "embedding": usage_since(fitted.space.embedder, fitted.space.taken_before),
            "oracle": session.oracle.fingerprint if session else None,
            "oracle_note": optional(session.oracle, "note") if session else None,
            "questions": session.counts if session else None,
            "names": session.naming.to_dict() if session else None,
            **fitted.report,
            "warnings": [*corpus.notes, *fitted.notes],
        }
        self.space_ = fitted.space
        self._embedder_spec = spec

    def _check_fitted(self) -> None:
        if not hasattr(self, "labels_"):
            raise NotFittedError("this ClusterLLM is not fitted yet: call fit(texts) first")


def _checked_answers(answers: Iterable[tuple[Question, Answer]], corpus: Corpus) -> Known:
    """Return known answers, each checked to be about texts of this corpus."""
    known = list(answers)
    for number, pair in enumerate(known):
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Question)):
            raise DataError(f"answers must be (Question, Answer) pairs, number {number} is not")
        question = pair[0]
        positions = (question.anchor_index, *(i for group in question.group_indices for i in group))
        if not all(0 <= position < len(corpus.texts) for position in positions):
            raise DataError(f"answer {number} is about text {max(positions)}, but there are {len(corpus.texts)} texts")
    return known
