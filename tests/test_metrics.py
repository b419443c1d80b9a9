import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterllm_plugins.errors import DataError
from clusterllm_plugins.metrics import (
    accuracy,
    ari,
    b_cubed,
    contingency,
    effective_number,
    evaluate,
    nmi,
    v_measure,
)

quick = settings(derandomize=True, deadline=None, max_examples=25)
labellings = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=20).map(
    lambda pairs: np.array(pairs).T
)

# Categories of 3, 2 and 1 texts; clusters of 4 and 2.
TRUTH = ["x", "x", "x", "y", "y", "z"]
LABELS = [1, 1, 0, 0, 0, 0]


def entropy(*labellings):
    _, counts = np.unique(np.array(labellings), axis=1, return_counts=True)
    shares = counts / counts.sum()
    return -(shares * np.log(shares)).sum()


def test_a_contingency_table_counts_what_is_shared():
    assert contingency(TRUTH, LABELS).tolist() == [[1, 2], [2, 0], [1, 0]]


@pytest.mark.parametrize(("truth", "labels"), [([], []), ([1, 2], [1]), ([[1, 2]], [[1, 2]])])
def test_labels_that_do_not_fit_are_refused(truth, labels):
    with pytest.raises(DataError, match=r"truth and labels must be of one length, got \(.*\) and \(.*\)"):
        contingency(truth, labels)


def test_accuracy_matches_clusters_to_categories_one_to_one():
    assert accuracy(TRUTH, LABELS) == pytest.approx(4 / 6)


def test_accuracy_takes_the_best_matching_not_the_greedy_one():
    # Cells 3 and 2 above 2 and 0: the largest first gives 3 + 0, the other way round 2 + 2.
    truth, labels = [0] * 5 + [1] * 2, [0] * 3 + [1] * 2 + [0] * 2
    assert accuracy(truth, labels) == pytest.approx(4 / 7)


def test_clusters_beyond_the_number_of_categories_match_nothing():
    assert accuracy([0, 0, 0, 0], [0, 1, 2, 2]) == 0.5


def test_ari_of_a_worked_example():
    # Pairs together: 2 in both, 4 by category, 7 by cluster, of 15: (2 - 28/15) / (5.5 - 28/15).
    assert ari(TRUTH, LABELS) == pytest.approx(2 / 54.5)


def test_b_cubed_of_a_worked_example():
    precision, recall, f1 = b_cubed(TRUTH, LABELS)
    assert precision == pytest.approx((6 / 4 + 4 / 2) / 6)
    assert recall == pytest.approx((5 / 3 + 4 / 2 + 1) / 6)
    assert f1 == pytest.approx(2 * precision * recall / (precision + recall))


@quick
@given(labellings)
def test_nmi_is_normalised_by_the_mean_of_the_entropies(pair):
    truth, labels = pair
    apart, joint = entropy(truth) + entropy(labels), entropy(truth, labels)
    expected = 2 * (apart - joint) / apart if apart else 1
    assert nmi(truth, labels) == pytest.approx(expected, abs=1e-9)


@quick
@given(labellings)
def test_v_measure_equals_nmi(pair):
    assert v_measure(*pair) == pytest.approx(nmi(*pair), abs=1e-9)


def test_independent_labels_share_no_information():
    assert nmi([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(0)


@quick
@given(labellings, st.permutations(range(5)))
def test_no_measure_depends_on_the_numbers_of_the_clusters(pair, numbers):
    truth, labels = pair
    assert evaluate(truth, np.array(numbers)[labels]) == pytest.approx(evaluate(truth, labels))


@quick
@given(labellings, st.randoms(use_true_random=False))
def test_no_measure_depends_on_the_order_of_the_texts(pair, random):
    order = random.sample(range(pair.shape[1]), pair.shape[1])
    assert evaluate(*pair[:, order]) == pytest.approx(evaluate(*pair))


@quick
@given(labellings)
def test_equal_clusters_score_one_everywhere(pair):
    truth, _ = pair
    assert evaluate(truth, (truth * 7) % 5) == pytest.approx(dict.fromkeys(evaluate(truth, truth), 1.0))


@quick
@given(labellings)
def test_measures_lie_between_zero_and_one(pair):
    scores = evaluate(*pair)
    assert all(-1e-9 <= score <= 1 + 1e-9 for name, score in scores.items() if name != "ari")
    assert -1 <= scores["ari"] <= 1


def test_evaluation_gives_every_measure_by_name():
    scores = evaluate(TRUTH, LABELS)
    precision, recall, f1 = b_cubed(TRUTH, LABELS)
    assert scores == {
        "acc": accuracy(TRUTH, LABELS),
        "nmi": nmi(TRUTH, LABELS),
        "ari": ari(TRUTH, LABELS),
        "v_measure": v_measure(TRUTH, LABELS),
        "b_cubed_precision": precision,
        "b_cubed_recall": recall,
        "b_cubed_f1": f1,
    }


@pytest.mark.parametrize("n_clusters", [1, 2, 5])
def test_equal_clusters_are_as_many_as_they_are(n_clusters):
    assert effective_number(np.arange(20) % n_clusters) == pytest.approx(n_clusters)


def test_unequal_clusters_are_effectively_fewer():
    # Shares 3/4 and 1/4: exp(0.75 ln(4/3) + 0.25 ln 4)
    assert effective_number([7, 7, 7, 2]) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)
