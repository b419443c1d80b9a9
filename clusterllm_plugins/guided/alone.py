"""The number of clusters alone, on any vectors: what :func:`clusterllm_plugins.select_n_clusters` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clusterllm_plugins.asking import Session
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.components import resolve_redaction
from clusterllm_plugins.corpus import make_corpus
from clusterllm_plugins.embedding import check_embeddings
from clusterllm_plugins.granularity import Granularity
from clusterllm_plugins.guided.classifier import Frame
from clusterllm_plugins.guided.numbers import MOST_PIECES, find_number, first_labels
from clusterllm_plugins.guided.pieces import Pieces
from clusterllm_plugins.guided.planning import Asker, rows_to_ask, shape_for
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.settings import cluster_range, seed_of
from clusterllm_plugins.store import AnswerStore
from clusterllm_plugins.vectors import assigned, centroids_of, normalise


def number_of_clusters(
    texts: Sequence[str],
    embeddings: Any,
    oracle: Any,
    *,
    n_clusters: tuple[int, int] | str,
    max_questions: int,
    instruction: str | None,
    store: str | Path | None,
    redact: Sequence[Any],
    progress: bool,
    random_state: Any,
) -> Granularity:
    """Ask about clusters of ``embeddings`` until their number is settled; the arguments are those of the public one."""
    plugins, seed = Plugins(), seed_of(random_state)
    corpus = make_corpus(texts, resolve_redaction(plugins, redact), is_asked_about=True)
    low, high = cluster_range(n_clusters, len(corpus.distinct))
    vectors = check_embeddings(embeddings, len(corpus.texts))
    part = rows_to_ask(corpus, [], high, seed)
    unit = normalise(vectors, part.distinct)
    points = Frame.of(unit).points(unit)
    shape = shape_for([corpus.texts[position] for position in part.distinct], max_questions, None)
    pieces = Pieces(
        points, first_labels(points, MOST_PIECES, seed), part.weights, shape.piece_candidates, shape.exemplars, seed
    )
    with AnswerStore(store) as answers:
        session = Session(
            plugins.oracle(oracle), plugins=plugins, store=answers, redaction=corpus.redaction, progress=progress
        )
        session.prepare(corpus.texts, vectors)
        ask = Asker(part, points, session, QuestionCap(max_questions), instruction, seed)
        found = find_number(pieces, ask, max_questions, low, high)
    labels = np.full(len(corpus.texts), -1, dtype=np.int64)
    if part is corpus:
        labels[corpus.kept] = found.labels[corpus.place[corpus.kept]]
    else:  # each text that was left out goes with the nearest mean of the groups
        labels[corpus.kept], _ = assigned(vectors, corpus.kept, centroids_of(unit, found.labels, found.n_clusters))
        labels[part.kept] = found.labels[part.place[part.kept]]
    return Granularity(found.n_clusters, found.how, found.curve, found.interval, labels)
