"""Names of clusters from their own words: class-based TF-IDF (Grootendorst 2022, section 3.3).

In: texts and labels. Out: a name per cluster, never empty, all distinct. A term weighs by its share of the
cluster's terms, by how rare it is over all, and by how unevenly it is spread over the clusters: what stands in
every cluster alike is a stop word in any language, without a list.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.protocols import Labels

TERMS_PER_NAME = 3

_WORD = re.compile(r"[^\W\d_]{2,}")
# Written without spaces: two characters stand in for a word.
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+)")


def terms_of(text: str) -> list[str]:
    """Return the words in lower case; of scripts without spaces, each two neighbouring characters."""
    terms: list[str] = []
    for word in _words(text.lower()):
        for part in _UNSPACED.split(word):
            if _UNSPACED.fullmatch(part):
                terms += [part[i : i + 2] for i in range(max(1, len(part) - 1))]
            elif len(part) > 1:
                terms.append(part)
    return terms


def _words(text: str) -> list[str]:
    if text.isascii():
        return _WORD.findall(text)
    # Vowel signs and accents that follow a letter are marks, which no regular expression of Python's knows.
    kept = "".join(char if char.isalpha() or unicodedata.category(char)[0] == "M" else " " for char in text)
    return [word for word in kept.split() if len(word) > 1]


def keywords(texts: Sequence[str], labels: Labels, n_clusters: int, n_terms: int = 10) -> list[list[str]]:
    """Return the terms that tell each cluster from the others, the best first.

    Args:
        texts: Shape (n_texts,).
        labels: Shape (n_texts,), each in [0, n_clusters).
        n_clusters: How many clusters there are.
        n_terms: The most terms of a cluster.
    """
    by_cluster: list[Counter[str]] = [Counter() for _ in range(n_clusters)]
    for text, label in zip(texts, labels, strict=True):
        # A term counts once a text: one text that repeats a word does not speak for its cluster.
        by_cluster[label].update(set(terms_of(text)))
    vocabulary = sorted(set().union(*by_cluster))
    if not vocabulary:
        return [[] for _ in range(n_clusters)]
    number = {term: place for place, term in enumerate(vocabulary)}
    totals = np.zeros(len(vocabulary))
    shares = np.zeros(len(vocabulary))  # sum over clusters of the share of their texts that have the term
    spread = np.zeros(len(vocabulary))  # sum of share log share, for the entropy over clusters
    for counts, size in zip(by_cluster, np.bincount(labels, minlength=n_clusters), strict=True):
        for term, count in counts.items():
            # Two texts more: what stands in the one text of a tiny cluster is no rule there.
            share = count / (size + 2)
            totals[number[term]] += count
            shares[number[term]] += share
            spread[number[term]] += share * np.log(share)
    entropy = np.log(shares) - spread / shares
    unevenness = 1 - entropy / np.log(n_clusters) if n_clusters > 1 else np.ones(len(vocabulary))
    average = totals.sum() / n_clusters
    weight = np.log(1 + average / totals) * np.clip(unevenness, 0, 1)
    return [_best(counts, number, weight, n_terms) for counts in by_cluster]


def _best(counts: Counter[str], number: dict[str, int], weight: NDArray[np.float64], n_terms: int) -> list[str]:
    size = sum(counts.values())
    scored = [(count / size * weight[number[term]], term) for term, count in counts.items()]
    # Equal scores in alphabetical order: the same on every run.
    return [term for score, term in sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:n_terms] if score > 1e-9]


def name_clusters(texts: Sequence[str], labels: Labels, n_clusters: int) -> list[str]:
    """Return a name per cluster: its best terms, as many as make it distinct, else a number."""
    names: list[str] = []
    for cluster, terms in enumerate(keywords(texts, labels, n_clusters)):
        candidates = [", ".join(terms[:length]) for length in range(TERMS_PER_NAME, len(terms) + 1)]
        candidates = [*candidates, ", ".join(terms), f"cluster {cluster}"]
        names.append(next(name for name in candidates if name and name not in names))
    return names
