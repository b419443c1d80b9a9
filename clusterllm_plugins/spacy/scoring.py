"""``clusterllm.scorer.v1``: how well predicted clusters match the gold ``doc.cats``, for ``spacy evaluate``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from spacy.training import Example
from spacy.util import registry

from clusterllm_plugins.spacy.attributes import PREFIX, Attributes


def score_clusters(examples: Iterable[Example], *, prefix: str = PREFIX, **kwargs: Any) -> dict[str, Any]:
    """Return ACC, NMI and ARI (paper, section 4.1) over the docs that have gold categories.

    A doc's category is its highest in ``doc.cats``, unless all are 0. Without any gold category the scores are
    ``None``, as those of spaCy's own scorers.

    Args:
        examples: Predicted and gold docs.
        prefix: That of the clusterer's attributes; the scores' names start with it.
        kwargs: What else spaCy hands to scorers.
    """
    attribute = Attributes(prefix).cluster
    truth: list[str] = []
    clusters: list[int] = []
    for example in examples:
        cluster = example.predicted._.get(attribute)
        cats = example.reference.cats
        if any(cats.values()) and cluster is not None:
            truth.append(max(cats, key=cats.__getitem__))
            clusters.append(cluster)
    names = [f"{prefix}_{measure}" for measure in ("acc", "nmi", "ari")]
    if not truth:
        return dict.fromkeys(names)
    from clusterllm_plugins.metrics import accuracy, ari, nmi

    scores = (accuracy(truth, clusters), nmi(truth, clusters), ari(truth, clusters))
    return dict(zip(names, scores, strict=True))


@registry.scorers("clusterllm.scorer.v1")
def make_scorer() -> Callable[..., dict[str, Any]]:
    """Return :func:`score_clusters`."""
    return score_clusters
