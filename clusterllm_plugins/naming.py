"""Names of clusters from their own words: class-based TF-IDF (Grootendorst 2022, section 3.3).

In: texts and labels. Out: a name per cluster, never empty, all distinct. A term weighs by its share of the
cluster's terms, by how rare it is over all, and by how unevenly it is spread over the clusters: what stands in
every cluster alike is a stop word in any language. A list of common ones (:mod:`clusterllm_plugins.stopwords`) is for
small corpora, where they stand unevenly by chance. Where an oracle can write names, its own stand in their place.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.protocols import Labels
from clusterllm_plugins.stopwords import STOP_WORDS

if TYPE_CHECKING:
    from clusterllm_plugins.asking import Session
    from clusterllm_plugins.budget import QuestionCap

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
    """Return the terms that tell each cluster from the others, the best first; stop words where it has no others.

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
        for term, times in counts.items():
            # Two texts more: what stands in the one text of a tiny cluster is no rule there.
            share = times / (size + 2)
            totals[number[term]] += times
            shares[number[term]] += share
            spread[number[term]] += share * np.log(share)
    entropy = np.log(shares) - spread / shares
    unevenness = 1 - entropy / np.log(n_clusters) if n_clusters > 1 else np.ones(len(vocabulary))
    average = totals.sum() / n_clusters
    weight = np.log(1 + average / totals) * np.clip(unevenness, 0, 1)
    return [_best(counts, number, weight, n_terms) for counts in by_cluster]


def _best(counts: Counter[str], number: dict[str, int], weight: NDArray[np.float64], n_terms: int) -> list[str]:
    size = sum(counts.values())
    scored = [(times / size * weight[number[term]], term) for term, times in counts.items()]
    # Equal scores in alphabetical order: the same on every run.
    terms = [term for score, term in sorted(scored, key=lambda pair: (-pair[0], pair[1])) if score > 1e-9]
    return ([term for term in terms if term not in STOP_WORDS] or terms)[:n_terms]


def name_clusters(texts: Sequence[str], labels: Labels, n_clusters: int) -> list[str]:
    """Return a name per cluster: its best terms, as many as make it distinct, else a number."""
    names: list[str] = []
    for cluster, terms in enumerate(keywords(texts, labels, n_clusters)):
        candidates = [", ".join(terms[:length]) for length in range(TERMS_PER_NAME, len(terms) + 1)]
        candidates = [*candidates, ", ".join(terms), f"cluster {cluster}"]
        names.append(next(name for name in candidates if name and name not in names))
    return names


def described_names(
    session: Session,
    groups_texts: Sequence[Sequence[str]],
    fallback: list[str],
    cap: QuestionCap,
    instruction: str | None = None,
) -> list[str]:
    """Return a name per cluster: what the oracle calls it, else its keyword name; all distinct.

    Args:
        session: Who is asked, under the caps on tokens and money.
        groups_texts: Some texts of each cluster, shape (n_clusters, any); all of them are shown to the oracle.
        fallback: The keyword name of each cluster, shape (n_clusters,), as :func:`name_clusters` makes them.
        cap: The most names that are asked for.
        instruction: The perspective in words.

    Raises:
        OracleError: If the oracle says that it cannot be asked at all.
        ClusterLLMError: If redaction or the store fails.
    """
    names: list[str] = []
    taken: set[str] = set()  # names that differ in upper and lower case only are the same to a reader
    given = session.describe(groups_texts, cap, instruction=instruction)
    for described, keyword_name in zip(given, fallback, strict=True):
        name = described or keyword_name
        if name.casefold() in taken and name != keyword_name:
            name = f"{name} ({keyword_name})"
        numbered = (name if number == 1 else f"{name} {number}" for number in count(1))
        names.append(next(candidate for candidate in numbered if candidate.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names
