"""Why a text is where it is: its cluster, the next best one, and the answers that touched it.

In: what a fit gave. Out: a JSON-able dict, and lines for people. Positions are those in the list given to ``fit``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.corpus import Corpus, Positions
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.questions import NONE, Answer, Question
from clusterllm_plugins.recording import Known, answer_lines
from clusterllm_plugins.vectors import normalise

EMPTY = "the text is empty, or nothing was left of it by redaction: it is in no cluster"
LONGEST_QUOTE = 100  # characters of a text within a line for people


@dataclass(frozen=True)
class Background:
    """What an explanation needs of a fit beside its results.

    Attributes:
        first: For every text the first position of its equal, -1 for an empty one, shape (n_texts,).
        known: The answers that were given to the fit, their questions redacted.
        texts: All texts, redacted; ``None`` in a loaded model, as texts are not saved.
    """

    first: Positions
    known: Known
    texts: Sequence[str] | None = None

    @classmethod
    def of_fit(cls, corpus: Corpus, known: Known) -> Background:
        """Keep it of a fit on ``corpus``."""
        first = np.where(corpus.place >= 0, corpus.distinct[corpus.place], -1)
        # Known questions come as the user has them: redacted texts take the place of theirs before any is saved.
        redacted = [(_plain(question, corpus.texts), _redacted(answer, corpus)) for question, answer in known]
        return cls(first, redacted, corpus.texts)

    @classmethod
    def of_artifact(cls, labels: Labels, first: Positions | None, known: Iterable[str]) -> Background:
        """Restore it from an artifact; an earlier version's has neither ``first`` nor ``known``."""
        if first is None:
            first = np.where(labels >= 0, np.arange(len(labels)), -1)
        records = [json.loads(line) for line in known]
        return cls(first, [(Question.from_dict(record), Answer.from_dict(record)) for record in records])

    def known_lines(self) -> list[str]:
        """Return the known answers as :meth:`of_artifact` reads them."""
        return list(answer_lines(self.known))


def explain_text(
    position: int,
    *,
    labels: Labels,
    scores: NDArray[np.float64],
    vectors: Vectors,
    centroids: Vectors,
    offsets: NDArray[np.float32],
    names: Sequence[str],
    asked: Known,
    background: Background,
) -> dict[str, Any]:
    """Return why a text is where it is; :meth:`ClusterLLM.explain` says what the keys are.

    Args:
        position: Of the text.
        labels: Shape (n_texts,), -1 for an empty text.
        scores: Of each text's own cluster, shape (n_texts,).
        vectors: In the refined space, shape (n_texts, dim).
        centroids: What texts are assigned by, shape (n_clusters, dim).
        offsets: Added to the squared distances to them, shape (n_clusters,).
        names: A name per cluster.
        asked: What the fit asked, and the answers.
        background: The rest.

    Raises:
        DataError: If there is no such text.
    """
    position = _checked_position(position, len(labels))
    own = int(labels[position])
    other, margin = (None, None) if own < 0 else _next_best(vectors[position], centroids, offsets, own)
    clusters = _Clusters(labels, names)
    same = _Same(position, background.first)
    questions = [
        entry
        for pairs, is_known in ((asked, False), (background.known, True))
        for question, answer in pairs
        for entry in _entries(question, answer, same, clusters, is_known=is_known)
    ]
    return {
        "position": position,
        "text": _text(position, same, background.texts, [question for question, _ in [*asked, *background.known]]),
        "cluster_id": own,
        "cluster_label": clusters.name(own),
        "cluster_score": float(scores[position]),
        "nearest_other": None if other is None else {"cluster_id": other, "cluster_label": clusters.name(other)},
        "margin": margin,
        "questions": questions,
        "note": EMPTY if own < 0 else None,
    }


def lines_for_people(explanation: dict[str, Any], title: str) -> Iterator[str]:
    """Yield an explanation as lines for people.

    Args:
        explanation: Of :func:`explain_text`.
        title: What the text is called, for example ``"line 3"``.
    """
    text = explanation["text"]
    yield f"{title}: {'(its text is not in this folder)' if text is None else ' '.join(text.split())}"
    if explanation["note"]:
        yield f"note: {explanation['note']}"
    else:
        yield f"{_cluster(explanation)}, score {explanation['cluster_score']:.3f}"
    if explanation["nearest_other"]:
        margin = explanation["margin"]
        comparison = f"farther by {margin:.3f}" if margin >= 0 else f"nearer by {-margin:.3f}"
        yield f"nearest other: {_cluster(explanation['nearest_other'])}, {comparison}"
    for role, heading in (("anchor", "questions about it"), ("exemplar", "questions that had it as an example")):
        entries = [entry for entry in explanation["questions"] if entry["role"] == role]
        yield f"{heading}: {len(entries) or 'none'}"
        for entry in entries:
            yield from _entry_lines(entry)


class _Clusters:
    """Where texts ended up."""

    def __init__(self, labels: Labels, names: Sequence[str]) -> None:
        self._labels = labels
        self._names = names

    def of(self, positions: Iterable[int]) -> list[int]:
        """Return the clusters of texts, the most frequent first, without that of empty texts."""
        found = Counter(int(self._labels[position]) for position in positions)
        return [cluster for cluster, _ in found.most_common() if cluster >= 0]

    def name(self, cluster: int) -> str:
        return self._names[cluster] if cluster >= 0 else ""


class _Same:
    """Tells whether a position holds the text in question: equal texts are asked about only once."""

    def __init__(self, position: int, first: Positions) -> None:
        self._position = position
        self._first = first

    def __contains__(self, position: int) -> bool:
        own = self._first[self._position]
        return position == self._position or bool(own >= 0 and self._first[position] == own)


def _checked_position(position: Any, n_texts: int) -> int:
    if not isinstance(position, int | np.integer) or isinstance(position, bool):
        raise DataError(f"a text is explained by its position, a whole number, not {position!r}")
    if not 0 <= position < n_texts:
        raise DataError(f"there is no text {position}: the model was fitted on {n_texts}, the first is text 0")
    return int(position)


def _next_best(
    vector: NDArray[np.float32], centroids: Vectors, offsets: NDArray[np.float32], own: int
) -> tuple[int | None, float | None]:
    """Return the best cluster but the own one, and by how much it is farther (squared distance plus offset)."""
    if len(centroids) < 2:
        return None, None
    unit = normalise(vector[None, :])[0].astype(np.float64)
    distances = ((centroids - unit) ** 2).sum(axis=1) + offsets
    others = distances.copy()
    others[own] = np.inf
    other = int(others.argmin())
    return other, float(distances[other] - distances[own])


def _text(position: int, same: _Same, texts: Sequence[str] | None, questions: Iterable[Question]) -> str | None:
    """Return the text; where texts were not saved, from a question that shows it."""
    if texts is not None:
        return str(texts[position])
    for question in questions:
        shown = [(question.anchor_index, question.anchor)]
        for indices, group in zip(question.group_indices, question.groups, strict=True):
            shown += zip(indices, group, strict=True)
        for place, text in shown:
            if place in same:
                return text
    return None


def _entries(
    question: Question, answer: Answer, same: _Same, clusters: _Clusters, *, is_known: bool
) -> Iterator[dict[str, Any]]:
    """Yield what the question says about the text: as its anchor, as an example, or nothing."""
    groups = question.group_indices
    candidates = [
        {
            "positions": list(indices),
            "texts": [str(text) for text in texts],
            "cluster_ids": (ids := clusters.of(indices)),
            "cluster_labels": [clusters.name(cluster) for cluster in ids],
        }
        for indices, texts in zip(groups, question.groups, strict=True)
    ]
    chosen = _chosen_group(question, answer)
    chosen_clusters = [] if chosen is None else clusters.of(groups[chosen])
    anchor = (clusters.of([question.anchor_index]) or [-1])[0]
    entry = {
        "kind": question.kind,
        "known": is_known,
        "anchor": {
            "position": question.anchor_index,
            "text": str(question.anchor),
            "cluster_id": anchor,
            "cluster_label": clusters.name(anchor),
        },
        "candidates": candidates,
        "answer": answer.choice,
        "chosen_cluster_id": chosen_clusters[0] if chosen_clusters else None,
        "error": answer.error,
    }
    if question.anchor_index in same:
        yield {"role": "anchor", **entry}
    shown_in = [number for number, indices in enumerate(groups) if any(index in same for index in indices)]
    if shown_in:
        yield {"role": "exemplar", **entry, "chosen": chosen in shown_in}


def _chosen_group(question: Question, answer: Answer) -> int | None:
    """Return the number of the group that the anchor was said to belong to."""
    if question.kind == "pair":
        return 0 if answer.choice == "yes" else None
    return None if answer.choice in (None, NONE) else int(answer.choice or 0) - 1


def _plain(question: Question, texts: Sequence[str]) -> Question:
    """Return the question with ``texts`` in the place of its own, and without what only its asking needed."""
    shown = tuple(
        tuple(texts[i] for i in part) if isinstance(part, tuple) else texts[part] for part in question.indices
    )
    return Question(question.kind, question.indices, shown, question.choices, repeat=question.repeat)


def _redacted(answer: Answer, corpus: Corpus) -> Answer:
    """Return an answer whose error, which may quote a reply about a raw text, is redacted."""
    return answer if answer.error is None else replace(answer, error=str(corpus.redaction.text(answer.error)))


def _entry_lines(entry: dict[str, Any]) -> Iterator[str]:
    given = ", given with the texts" if entry["known"] else ""
    if entry["kind"] == "pair":
        other = entry["candidates"][0] if entry["role"] == "anchor" else None
        shown = _quoted(entry["anchor"]["text"]) if other is None else _quoted(other["texts"][0])
        place = _cluster(entry["anchor"]) if other is None else _candidate_clusters(other)
        yield f"  the same category as {shown} ({place})? {_answer(entry)}{given}"
        return
    subject = "it" if entry["role"] == "anchor" else f"{_quoted(entry['anchor']['text'])} ({_cluster(entry['anchor'])})"
    yield f"  where does {subject} belong? {_answer(entry)}{given}"
    for number, candidate in enumerate(entry["candidates"], start=1):
        mark = "*" if entry["answer"] == str(number) else " "
        shown = ", ".join(map(_quoted, candidate["texts"]))
        yield f"  {mark} {number}: {shown} ({_candidate_clusters(candidate)})"


def _answer(entry: dict[str, Any]) -> str:
    if entry["answer"] is None:
        return f"no answer ({' '.join(entry['error'].split())})" if entry["error"] else "no answer"
    return "none of these" if entry["answer"] == NONE else str(entry["answer"])


def _cluster(place: dict[str, Any]) -> str:
    if place["cluster_id"] < 0:
        return "in no cluster"
    return f"cluster {place['cluster_id']}: {place['cluster_label']}"


def _candidate_clusters(candidate: dict[str, Any]) -> str:
    pairs = zip(candidate["cluster_ids"], candidate["cluster_labels"], strict=True)
    return "; ".join(f"cluster {cluster}: {name}" for cluster, name in pairs) or "in no cluster"


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    return f'"{line}"' if len(line) <= LONGEST_QUOTE else f'"{line[: LONGEST_QUOTE - 3]}..."'
