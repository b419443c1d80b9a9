"""One fit of ``method="auto"``, step by step.

1. The plain clustering: k-means, as without any oracle. It is kept unless the answers earn better.
2. Core checks: an oracle that answers no better than a guess is asked nothing more.
3. Questions about whole clusters; those that are one are merged, those that are two are cut.
4. Questions about single texts in rounds; in between, clusters in which many texts fit nothing are cut once more.
5. A duel: the clustering that further answers favour.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.asking import Session
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.corpus import Corpus
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.fitting import (
    FitSettings,
    Fitted,
    embed_corpus,
    finished,
    fit_paper,
    known_triplets,
    plain_clusters,
    unasked_number,
)
from clusterllm_plugins.guided.checks import (
    MOST_DUELS,
    CoreChecks,
    Duel,
    core_checks,
    duel,
    estimate_reliability,
    order_bias,
)
from clusterllm_plugins.guided.classifier import Frame, without_empty
from clusterllm_plugins.guided.evidence import TRIPLET_RELIABILITY, Asked
from clusterllm_plugins.guided.numbers import MOST_PIECES, FoundNumber, find_number, first_labels
from clusterllm_plugins.guided.pieces import Pieces, core_rows, worth_of
from clusterllm_plugins.guided.planning import Asker, Shape, is_triplet, known_by_rows, rows_to_ask, shape_for
from clusterllm_plugins.guided.reassign import Reassignment
from clusterllm_plugins.naming import described_names, name_clusters
from clusterllm_plugins.protocols import Labels, Vectors, has_methods
from clusterllm_plugins.recording import Known
from clusterllm_plugins.space import Space
from clusterllm_plugins.vectors import assigned, normalise, squared_distances

# A question about clusters is asked while this many texts hang on it: about what a question about a text moves.
WORTH = 4.0
_PIECES_SHARE = 0.5  # of the questions at most, before any text is asked about
_FIRST_SHARE = 0.4  # of the questions left, before clusters are cut once more
_CUT_SHARE = 1 / 3  # of the questions left, for these cuts
_CUTS_PER_SLOT = 2  # pieces cut for each place that merging left free
_CUTS = 0.4  # of the clusters, cut by doubt
_NAMES_SHARE = 0.25  # of the questions at most go to names
_MOST_NAMED = 100  # where the number is open
NAMED_BY = 8  # texts of a cluster are shown for its name
DUEL_SHARE = 16  # at most every sixteenth question compares the clusterings
_MOST_CHECKED = 20  # clusters of which typical texts are asked about, where the number is open
_ROUNDS_OF_KNOWN = 6  # of learning, where nobody is asked
_ROUNDS = (2, 6)  # of text questions before and after


@dataclass
class Guided:
    """What the answers made of the rows.

    Attributes:
        labels: The cluster of each row, shape (n_rows,).
        centres: Shape (n_clusters, dim).
        offsets: Shape (n_clusters,).
    """

    labels: Labels
    centres: Vectors
    offsets: NDArray[np.float32]


def fit_auto(
    corpus: Corpus,
    space: Space,
    vectors: Vectors,
    session: Session | None,
    known: Known,
    settings: FitSettings,
    max_tokens: int | None = None,
) -> Fitted:
    """Run ``method="auto"``.

    Args:
        corpus: The texts.
        space: How they became vectors.
        vectors: Those vectors, shape (n_texts, dim).
        session: Asks the oracle; ``None`` = nobody is asked.
        known: Answers already had.
        settings: The rest.
        max_tokens: The cap on tokens, by which the size of questions is chosen.
    """
    if session is None and not known:
        return fit_paper(corpus, space, vectors, session, known, settings)
    space, vectors, n_triplets = _taught_by_triplets(corpus, space, vectors, known, settings)
    notes: list[str] = []
    report: dict[str, Any] = {"triplets": [n_triplets], "refinement": space.refinement}
    part = rows_to_ask(corpus, known, settings.high, settings.seed)
    unit = normalise(vectors, part.distinct)
    frame = Frame.of(unit)
    answers = known_by_rows(known, part, frame.points(unit))
    texts = [corpus.texts[position] for position in part.distinct]
    shape = shape_for(texts, settings.max_questions, max_tokens)
    fit = _Fit(corpus, part, unit, frame, session, answers, shape, settings)
    if settings.low == settings.high:
        plain = plain_clusters(corpus, vectors, settings.low, settings, notes)
        report["n_clusters"] = {"value": len(plain[1]), "how": "given", "curve": []}
        start = plain[0][_first_places(corpus, part)]
        trusted = fit.checked(start, len(plain[1]))
        guided = fit.run(start, len(plain[1])) if trusted else None
    else:
        plain, guided, found = fit.open_number(vectors, notes)
        report["n_clusters"] = {"value": found.n_clusters, "how": found.how, "curve": found.curve}
        report["n_clusters_interval"] = found.interval
    report |= fit.report(guided)
    if guided is None or not report["guard"]["kept_refined"]:
        note = f"the plain clustering was kept: {report['guard']['why']}"
        notes.append(note)
        warnings.warn(note, ClusterLLMWarning, stacklevel=4)
        labels, centres = plain
        offsets = np.zeros(len(centres), np.float32)
    else:
        report["refinement"] = fit.refinement(space)
        centres, offsets = guided.centres, guided.offsets
        if part is corpus:
            labels = guided.labels[corpus.place[corpus.kept]]
        else:
            labels, _ = assigned(vectors, corpus.kept, centres, offsets)
    names = fit.names(labels, centres)
    return finished(corpus, space, vectors, labels, centres, offsets, names, notes, report)


class _Fit:
    """The parts of a fit and what passes between them; rows are the distinct texts of ``part``."""

    def __init__(
        self,
        corpus: Corpus,
        part: Corpus,
        unit: Vectors,
        frame: Frame,
        session: Session | None,
        known: list[Asked],
        shape: Shape,
        settings: FitSettings,
    ) -> None:
        self._corpus, self._part, self._unit, self._frame = corpus, part, unit, frame
        self._points = frame.points(unit)
        self._settings, self._shape = settings, shape
        self._known = known
        self._known_anchors = {question.anchor for question in known}
        self._session = session
        self._names_reserved = self._for_names(session)
        self._ask = self._asker(session, settings.max_questions - self._names_reserved)
        self._ask_pieces = self._asker(session, settings.max_granularity_questions)
        self._checks: CoreChecks | None = None
        self._stages: dict[str, int] = {}
        self._reassignment: Reassignment | None = None
        self._duel: Duel | None = None

    def _for_names(self, session: Session | None) -> int:
        """Return how many questions are kept back for names: one a cluster, where that is a small share of all."""
        return names_wanted(self._settings) if session and has_methods(session.oracle, "describe") else 0

    def names(self, kept_labels: Labels, centres: Vectors) -> list[str] | None:
        """Return the oracle's name of each cluster, or None where it writes none."""
        if self._session is None or not self._names_reserved or not (self._checks and self._checks.passed):
            return None
        texts = [self._corpus.texts[position] for position in self._corpus.kept]
        fallback = name_clusters(texts, kept_labels, len(centres))
        rows = kept_labels[_first_places(self._corpus, self._part)]
        groups = []
        for cluster, core in enumerate(core_rows(self._points, rows, len(centres))):
            positions = self._part.distinct[core[:NAMED_BY]]
            if not len(core):  # a small cluster that the sample has no text of
                positions = self._corpus.kept[np.flatnonzero(kept_labels == cluster)[:NAMED_BY]]
            groups.append([self._corpus.texts[position] for position in positions])
        cap = QuestionCap(self._names_reserved)
        return described_names(self._session, groups, fallback, cap, self._settings.instruction)

    def _asker(self, session: Session | None, limit: int) -> Asker:
        cap = QuestionCap(limit if session is not None else 0, in_rounds=True)
        settings = self._settings
        return Asker(self._part, self._points, session, cap, settings.instruction, settings.seed)

    def checked(self, plain: Labels, n_clusters: int) -> bool:
        """Return whether the oracle answers better than a guess; known answers alone are trusted."""
        if self._ask.session is None or not self._ask.left or n_clusters < 2:
            return bool(self._known) and n_clusters > 1
        self._checks = core_checks(
            self._ask, self._points, plain, n_clusters, self._shape.exemplars, self._settings.seed
        )
        self._stages["core checks"] = self._ask.count
        return self._checks.passed

    def run(self, plain: Labels, n_clusters: int) -> Guided:
        """Ask about clusters, then about texts, starting from the plain clustering."""
        start = plain if not self._known else self._start(plain, n_clusters)
        pieces = self._pieces(start, self._known_of_pieces(start))
        limit = int(_PIECES_SHARE * self._ask.cap.limit) - self._ask.count
        self._about_clusters(pieces, n_clusters, limit)
        return self._about_texts(pieces, n_clusters, plain)

    def open_number(
        self, vectors: Vectors, notes: list[str]
    ) -> tuple[tuple[Labels, Vectors], Guided | None, FoundNumber]:
        """Find the number of clusters by questions about pieces, then go on as with a given one."""
        settings = self._settings
        # Where nobody can be asked, no more pieces than clusters are wanted: merging them would be a guess.
        most = MOST_PIECES if self._ask_pieces.left or self._ask.left else settings.high
        labels = first_labels(self._points, most, settings.seed)
        if self._known:
            labels = self._start(labels, int(labels.max()) + 1)
        pieces = self._pieces(labels, self._known_of_pieces(labels))
        # Few clusters, or several candidates would be of a text's own category.
        coarse = max(2, min(_MOST_CHECKED, pieces.n_pieces // 5))
        if not self.checked(first_labels(self._points, coarse, settings.seed), coarse):
            unasked = unasked_number(self._corpus, vectors, settings)
            number, bounds = unasked.n_clusters, (settings.low, settings.high)
            plain = plain_clusters(self._corpus, vectors, number, settings, notes)
            return plain, None, FoundNumber(number, bounds, unasked.curve, unasked.how, plain[0])
        ask, limit = self._ask_pieces, self._ask_pieces.cap.limit
        if not limit:  # nothing is set aside for the number: it takes its share of the other questions
            ask, limit = self._ask, int(_PIECES_SHARE * self._ask.left)
        before = ask.count
        found = find_number(pieces, ask, limit, settings.low, settings.high)
        self._stages["number of clusters"] = ask.count - before
        plain = plain_clusters(self._corpus, vectors, found.n_clusters, settings, notes)
        if found.n_clusters < 2:
            return plain, None, found
        settled = self._pieces(found.labels, pieces.answered)
        start = plain[0][_first_places(self._corpus, self._part)]
        return plain, self._about_texts(settled, found.n_clusters, start), found

    def _pieces(self, labels: Labels, answered: list[Asked]) -> Pieces:
        shape = self._shape
        return Pieces(
            self._points,
            labels.copy(),
            self._part.weights,
            shape.piece_candidates,
            shape.exemplars,
            self._settings.seed,
            list(answered),
        )

    def _known_of_pieces(self, labels: Labels) -> list[Asked]:
        """Return the known answers that tell whether pieces are one category.

        A triplet's exemplars speak for themselves only; and where a text's own piece was among the candidates the
        question was where that text belongs, not what its piece is.
        """
        return [
            question
            for question in self._known
            if question.reliability != TRIPLET_RELIABILITY and labels[question.anchor] not in question.clusters(labels)
        ]

    def _start(self, plain: Labels, n_clusters: int) -> Labels:
        """Return the clustering that known answers were asked about, as far as their groups show it."""
        means = [self._points[list(group)].mean(axis=0) for group in distinct_groups(self._known)[:n_clusters]]
        if len(means) < n_clusters / 2:
            return plain
        while len(means) < n_clusters:
            distances = squared_distances(self._points, np.stack(means)).min(axis=1)
            means.append(self._points[int(distances.argmax())])
        return kmeans_from(self._points, np.stack(means))

    def _about_clusters(self, pieces: Pieces, n_clusters: int, limit: int) -> None:
        """Merge pieces that are one category; cut others for the places that come free; leave n_clusters."""
        before = self._ask.count
        worth = worth_of(WORTH, len(self._points), self._ask.left)
        pieces.ask(self._ask, int(0.7 * limit), worth)
        free = n_clusters - int(pieces.merged(pieces.n_pieces).max() + 1)
        if free > 0 and self._ask.left:
            pieces.split(max(2, _CUTS_PER_SLOT * free))
            pieces.ask(self._ask, limit - (self._ask.count - before), worth)
        elif free > 0:
            pieces.learn_reliability()
            pieces.split_smallest(n_clusters - int(pieces.merged(pieces.n_pieces).max() + 1))
        self._merge_to(pieces, n_clusters)
        self._stages["clusters"] = self._ask.count - before

    def _merge_to(self, pieces: Pieces, n_clusters: int) -> None:
        pieces.labels = pieces.merged(n_clusters, n_clusters)[pieces.labels]

    def _about_texts(self, pieces: Pieces, n_clusters: int, plain: Labels) -> Guided:
        """Ask about texts; where many in a cluster belong nowhere, cut it and let the answers decide."""
        before = self._ask.count
        anew = [question for question in pieces.answered if question.anchor not in self._known_anchors]
        answered = [*self._known, *anew]
        texts = Reassignment(self._points, pieces.labels, n_clusters, self._shape, answered)
        self._reassignment = texts
        if not self._ask.left:
            for _ in range(_ROUNDS_OF_KNOWN - 1):
                texts.learn()
            return self._guided(texts)
        doubted = texts.ask(self._ask, int(_FIRST_SHARE * self._ask.left), _ROUNDS[0])
        cut = self._pieces(texts.labels, pieces.answered)
        if doubted and cut.split(max(3, int(_CUTS * n_clusters)), doubted):
            known = len(cut.answered)
            worth = worth_of(WORTH, len(self._points), self._ask.left)
            cut.ask(self._ask, int(_CUT_SHARE * self._ask.left), worth)
            self._merge_to(cut, n_clusters)
            texts.restart(cut.labels, cut.answered[known:])
        kept_back = min(MOST_DUELS, self._ask.cap.limit // DUEL_SHARE)
        texts.ask(self._ask, self._ask.left - kept_back, _ROUNDS[1])
        self._stages["texts"] = self._ask.count - before
        before = self._ask.count
        used = {question.anchor for question in texts.answered}
        self._duel = duel(
            self._ask, self._points, plain, texts.labels, used, self._shape.exemplars, self._settings.seed
        )
        self._stages["duel"] = self._ask.count - before
        return self._guided(texts)

    def _guided(self, texts: Reassignment) -> Guided:
        """Return the clusters as the classifier draws them, so that predicting the same texts gives the same labels.

        It learns once more, from the last answers too. Its labels were at least as accurate as those that the answers
        give to the texts asked about: what is answered about one text is wrong more often than what many say.
        """
        texts.learn()
        centres, offsets = texts.classifier.of_unit_vectors(self._frame).as_centres()
        return Guided(*without_empty(self._unit, centres, offsets))

    def refinement(self, space: Space) -> str:
        """Return what the answers taught, in words."""
        learnt = "clusters by a linear classifier on frozen vectors"
        return f"{space.refinement}; {learnt}" if space.refinement != "none" else learnt

    def report(self, guided: Guided | None) -> dict[str, Any]:
        """Return what is known of the oracle, what was kept and why."""
        texts = self._reassignment
        held = texts.held if texts is not None else []
        asks = (self._ask, self._ask_pieces)
        reliability = estimate_reliability(held)
        asked = sum(ask.count for ask in asks)
        report: dict[str, Any] = {
            "stages": self._stages,
            "shape": vars(self._shape),
            "reliability": {
                "accuracy": round(reliability.accuracy, 4) if held else None,
                "held_answers": len(held),
                "order_bias": order_bias([place for ask in asks for place in ask.places]),
                "abstained": round(sum(ask.abstained for ask in asks) / asked, 4) if asked else None,
            },
        }
        kept, why = self._verdict(guided)
        report["guard"] = {
            "kept_refined": kept,
            "why": why,
            "core_checks": vars(self._checks) if self._checks else None,
            "duel": vars(self._duel) if self._duel else None,
        }
        return report

    def _verdict(self, guided: Guided | None) -> tuple[bool, str]:
        if self._checks is not None and not self._checks.picked:
            return False, f"of {self._checks.asked} answers to its checks none picked a group"
        if self._checks is not None and not self._checks.passed:
            return False, (
                f"the oracle picked a typical text's own cluster {self._checks.own} times in "
                f"{self._checks.picked}, where a guess does {self._checks.expected} times, and in another order the "
                f"same group {self._checks.same} times in {self._checks.again}"
            )
        if guided is None:
            return False, "there was nothing to ask about"
        if self._duel is not None and self._duel.favours_plain:
            return False, "of texts that moved, the answers put more into the plain clusters than into the new ones"
        if self._checks is None:
            return True, "the answers were given; nobody could be asked to check them"
        return True, "the oracle passed its checks, and its answers do not favour the plain clustering"


def names_wanted(settings: FitSettings) -> int:
    """Return how many questions are kept back for an oracle's names."""
    wanted = settings.high if settings.low == settings.high else min(settings.high, _MOST_NAMED)
    return wanted if wanted <= settings.max_questions * _NAMES_SHARE else 0


def distinct_groups(answered: list[Asked]) -> list[tuple[int, ...]]:
    """Return groups of two exemplars or more that were shown, the first shown first, none sharing a row."""
    groups: list[tuple[int, ...]] = []
    used: set[int] = set()
    for question in answered:
        for group in question.groups:
            if len(group) > 1 and used.isdisjoint(group):
                groups.append(group)
                used |= set(group)
    return groups


def kmeans_from(points: Vectors, means: Vectors) -> Labels:
    """Return the labels of k-means that starts from these means, shape (n_rows,)."""
    from sklearn.cluster import KMeans

    labels: Labels = KMeans(len(means), init=means, n_init=1).fit(points).labels_.astype(np.int64)
    return labels


def _taught_by_triplets(
    corpus: Corpus, space: Space, vectors: Vectors, known: Known, settings: FitSettings
) -> tuple[Space, Vectors, int]:
    """Refine the space by the triplets among the known answers, as the paper does (section 3.1)."""
    triplets = known_triplets(corpus, [pair for pair in known if is_triplet(pair[0])])
    if not len(triplets):
        return space, vectors, 0
    space, mapped = space.refined(corpus.texts, vectors, triplets, settings.seed, settings.progress)
    return space, embed_corpus(corpus, space, settings.progress) if mapped is None else mapped, len(triplets)


def _first_places(corpus: Corpus, part: Corpus) -> NDArray[np.int64]:
    """Return where each distinct text of a part stands among all kept ones, shape (n_rows,)."""
    return np.searchsorted(corpus.kept, part.distinct)
