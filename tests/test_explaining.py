"""Why a text is where it is: right after a fit, and of a saved model."""

import json

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from clusterllm_plugins import Answer, ClusterLLM, ClusterLLMError, ClusterLLMWarning
from clusterllm_plugins.artifact import read_artifact, write_artifact
from clusterllm_plugins.explaining import Background, explain_text, lines_for_people
from clusterllm_plugins.questions import choice_question, pair_question, triplet_question
from clusterllm_plugins.vectors import normalise, squared_distances

# Two clusters on a circle, and a text of the first that stands nearer to the second.
TEXTS = ["kettle", "teapot", "tea", "bicycle", "tyre", "tea on a bicycle"]
VECTORS = np.array([[1, 0], [1, 0], [1, 0], [0, 2], [0, 2], [1, 3]], np.float32)
LABELS = np.array([0, 0, 0, 1, 1, 0])
CENTROIDS = np.array([[1, 0], [0, 1]], np.float32)


def explained(position, *known, asked=(), labels=LABELS, first=None, texts=TEXTS, **given):
    """Explain a text of the two clusters."""
    first = np.arange(len(labels)) if first is None else np.array(first)
    arguments = {"vectors": VECTORS, "centroids": CENTROIDS, "names": ["drinks", "wheels"]} | given
    arguments.setdefault("offsets", np.zeros(len(arguments["centroids"]), np.float32))
    scores = np.linspace(0.5, 1, len(labels))
    background = Background(first, list(known), texts)
    return explain_text(position, labels=labels, scores=scores, asked=list(asked), background=background, **arguments)


def entry(position, question, choice, **given):
    """Return the one entry that a question gives a text."""
    (only,) = explained(position, asked=[(question, Answer(choice))], **given)["questions"]
    return only


# --- the text and its clusters ---------------------------------------------------------------------------------


def test_a_text_is_told_with_its_cluster_and_score():
    told = explained(3)
    wanted = {"position": 3, "text": "bicycle", "cluster_id": 1, "cluster_label": "wheels"}
    assert {key: told[key] for key in wanted} == wanted
    assert told["cluster_score"] == pytest.approx(0.8)


def test_the_nearest_other_cluster_is_the_best_but_the_own_one():
    assert explained(0)["nearest_other"] == {"cluster_id": 1, "cluster_label": "wheels"}


def test_the_margin_is_in_squared_distance_of_the_normalised_vector():
    assert explained(3)["margin"] == pytest.approx(2)


def test_the_margin_is_negative_where_an_answer_moved_the_text_against_the_distances():
    to_own, to_other = squared_distances(normalise(VECTORS[5:]), CENTROIDS)[0]
    assert to_other < to_own
    assert explained(5)["margin"] == pytest.approx(to_other - to_own)


def test_offsets_of_clusters_count_as_distance():
    offsets = np.array([0.25, 1], np.float32)
    assert explained(3, offsets=offsets)["margin"] == pytest.approx(2 - 0.75)


def test_offsets_decide_which_cluster_is_next():
    centroids = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    told = explained(0, centroids=centroids, names=["a", "b", "c"], offsets=np.array([0, 1, 0.5], np.float32))
    assert told["nearest_other"]["cluster_id"] == 2


def test_a_single_cluster_has_no_other():
    told = explained(0, labels=np.zeros(6, int), centroids=CENTROIDS[:1], names=["all"])
    assert (told["nearest_other"], told["margin"]) == (None, None)


def test_an_empty_text_is_said_to_be_empty():
    told = explained(5, labels=np.array([0, 0, 0, 1, 1, -1]))
    assert (told["cluster_id"], told["cluster_label"], told["nearest_other"]) == (-1, "", None)
    assert told["note"].startswith("the text is empty")


def test_other_texts_have_no_note():
    assert explained(0)["note"] is None


@pytest.mark.parametrize("position", [-1, 6])
def test_a_position_out_of_range_is_refused(position):
    with pytest.raises(ClusterLLMError, match=rf"^there is no text {position}: the model was fitted on 6"):
        explained(position)


@pytest.mark.parametrize("position", ["0", 0.0, True, None])
def test_what_is_no_position_is_refused(position):
    with pytest.raises(ClusterLLMError, match=r"^a text is explained by its position, a whole number, not "):
        explained(position)


def test_a_position_may_be_numpys():
    assert explained(np.int64(3))["position"] == 3


# --- questions -------------------------------------------------------------------------------------------------

CHOICE = choice_question(TEXTS, 0, [[3, 1, 2], [4]], none=True)
PAIR = pair_question(TEXTS, 0, 4)


def test_a_choice_about_the_text_tells_where_the_candidates_ended_up_the_most_frequent_first():
    assert entry(0, CHOICE, "1")["candidates"][0] == {
        "positions": [3, 1, 2],
        "texts": ["bicycle", "teapot", "tea"],
        "cluster_ids": [0, 1],
        "cluster_labels": ["drinks", "wheels"],
    }


@pytest.mark.parametrize(("choice", "cluster"), [("1", 0), ("2", 1), ("none", None), (None, None)])
def test_a_choice_about_the_text_tells_the_answer_and_the_chosen_cluster(choice, cluster):
    told = entry(0, CHOICE, choice)
    assert (told["role"], told["kind"], told["answer"], told["chosen_cluster_id"]) == (
        "anchor",
        "choice",
        choice,
        cluster,
    )


@pytest.mark.parametrize(("choice", "cluster"), [("yes", 1), ("no", None), (None, None)])
def test_a_pair_with_the_text_on_the_left_is_about_it(choice, cluster):
    told = entry(0, PAIR, choice)
    assert (told["role"], told["kind"], told["chosen_cluster_id"]) == ("anchor", "pair", cluster)


@pytest.mark.parametrize(("choice", "chosen"), [("1", False), ("2", True), ("none", False), (None, False)])
def test_an_example_is_told_whether_its_group_was_chosen(choice, chosen):
    told = entry(4, CHOICE, choice)
    assert (told["role"], told["chosen"]) == ("exemplar", chosen)


@pytest.mark.parametrize(("choice", "chosen"), [("yes", True), ("no", False), (None, False)])
def test_the_right_of_a_pair_is_an_example(choice, chosen):
    told = entry(4, PAIR, choice)
    assert (told["role"], told["chosen"]) == ("exemplar", chosen)


def test_an_example_is_told_what_it_was_an_example_for():
    wanted = {"position": 0, "text": "kettle", "cluster_id": 0, "cluster_label": "drinks"}
    assert entry(4, CHOICE, "1")["anchor"] == wanted


def test_only_an_example_can_be_chosen():
    assert "chosen" not in entry(0, CHOICE, "1")


def test_questions_about_other_texts_are_left_out():
    assert explained(5, asked=[(CHOICE, Answer("1")), (PAIR, Answer("yes"))])["questions"] == []


def test_why_there_was_no_answer_is_told():
    told = explained(0, asked=[(PAIR, Answer(None, error="timed out"))])
    assert told["questions"][0]["error"] == "timed out"


def test_known_answers_are_told_as_such_after_those_that_were_asked():
    told = explained(0, (PAIR, Answer("yes")), asked=[(CHOICE, Answer("1"))])
    assert [(found["kind"], found["known"]) for found in told["questions"]] == [("choice", False), ("pair", True)]


def test_what_was_asked_about_an_equal_text_counts():
    assert entry(5, CHOICE, "1", first=[0, 1, 2, 3, 4, 0])["role"] == "anchor"


def test_an_empty_text_has_no_questions_of_other_empty_texts():
    labels, first = np.array([-1, 0, 0, 1, 1, -1]), [-1, 1, 2, 3, 4, -1]
    assert explained(5, (CHOICE, Answer("1")), labels=labels, first=first)["questions"] == []


def test_examples_without_a_cluster_leave_none():
    labels = np.array([0, 0, 0, 1, -1, 0])
    told = entry(0, PAIR, "yes", labels=labels)
    assert (told["candidates"][0]["cluster_ids"], told["chosen_cluster_id"]) == ([], None)


def test_a_text_that_was_not_saved_is_taken_from_a_question():
    assert explained(4, asked=[(CHOICE, Answer("1"))], texts=None)["text"] == "tyre"


def test_a_text_that_no_question_shows_is_none():
    assert explained(5, asked=[(CHOICE, Answer("1"))], texts=None)["text"] is None


# --- the estimator ---------------------------------------------------------------------------------------------


class First:
    """Always chooses the first."""

    fingerprint = "first"

    def answer(self, questions):
        return [Answer(question.choices[0]) for question in questions]


def fit(texts, **settings):
    answers = settings.pop("answers", ())
    return ClusterLLM(**({"embedder": "lsa", "n_clusters": 3, "method": "paper", "progress": False} | settings)).fit(
        texts, answers=answers
    )


@pytest.fixture
def known(texts):
    return [(triplet_question(texts, 0, 1, 5), Answer("1")), (pair_question(texts, 5, 0), Answer("no"))]


def test_a_fitted_model_explains_where_its_own_results_say(texts):
    model = fit(texts)
    for position in range(len(texts)):
        told = model.explain(position)
        assert (told["text"], told["cluster_id"]) == (texts[position], model.labels_[position])
        assert told["cluster_label"] == model.cluster_labels_[told["cluster_id"]]
        assert told["cluster_score"] == model.cluster_scores_[position]
        assert told["margin"] >= 0  # k-means: each text is in the nearest cluster


def test_every_question_asked_is_explained_at_its_anchor(texts):
    model = fit(texts, oracle=First(), max_questions=8)
    found = [
        told
        for position in range(len(texts))
        for told in model.explain(position)["questions"]
        if told["role"] == "anchor"
    ]
    assert len(found) == len(model.questions_) == 8
    assert {told["answer"] for told in found} == {"1"}


def test_answers_given_to_the_fit_are_explained(texts, known):
    told = fit(texts, answers=known).explain(0)["questions"]
    assert [(found["role"], found["kind"], found["known"]) for found in told] == [
        ("anchor", "choice", True),
        ("exemplar", "pair", True),
    ]


def test_an_explanation_is_json(texts, known):
    told = fit(texts, oracle=First(), max_questions=8, answers=known).explain(0)
    assert json.loads(json.dumps(told)) == told


def test_a_repeated_text_has_the_questions_of_the_first(texts, known):
    with pytest.warns(ClusterLLMWarning):
        model = fit([*texts, texts[0]], answers=known)
    assert model.explain(len(texts))["questions"] == model.explain(0)["questions"] != []


def test_redacted_words_are_in_no_explanation(texts, known):
    model = fit(texts, answers=known, redact=[lambda text: text.replace("parcel", "X")])
    assert model.explain(0)["text"] == "X late"
    assert "parcel" not in json.dumps([model.explain(position) for position in range(len(texts))])


def test_a_model_that_is_not_fitted_says_so():
    with pytest.raises(NotFittedError, match=r"call fit\(texts\) first"):
        ClusterLLM().explain(0)


# --- saved and loaded ------------------------------------------------------------------------------------------


def test_a_loaded_model_explains_the_same(texts, known, tmp_path):
    model = fit(texts, oracle=First(), max_questions=8, answers=known)
    model.save(tmp_path)
    loaded = ClusterLLM.load(tmp_path)
    assert [loaded.explain(i) | {"text": texts[i]} for i in range(15)] == [model.explain(i) for i in range(15)]


def test_a_loaded_model_has_no_text_that_no_question_shows(texts, known, tmp_path):
    fit(texts, answers=known).save(tmp_path)
    loaded = ClusterLLM.load(tmp_path)
    assert (loaded.explain(1)["text"], loaded.explain(2)["text"]) == (texts[1], None)


def test_a_model_saved_again_explains_the_same(texts, known, tmp_path):
    fit(texts, answers=known).save(tmp_path / "one")
    loaded = ClusterLLM.load(tmp_path / "one")
    loaded.save(tmp_path / "two")
    assert ClusterLLM.load(tmp_path / "two").explain(0) == loaded.explain(0)


def test_a_loaded_model_knows_which_texts_were_equal(texts, known, tmp_path):
    with pytest.warns(ClusterLLMWarning):
        fit([*texts, texts[0]], answers=known).save(tmp_path)
    loaded = ClusterLLM.load(tmp_path)
    assert len(loaded.explain(len(texts))["questions"]) == 2


def test_a_model_on_precomputed_vectors_explains_without_an_embedder(texts, known, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(15, 4)).astype(np.float32)
    settings = {"n_clusters": 3, "method": "paper", "progress": False}
    ClusterLLM(**settings).fit(texts, embeddings=vectors, answers=known).save(tmp_path)
    loaded = ClusterLLM.load(tmp_path)
    assert loaded.space_.embedder is None
    assert len(loaded.explain(0)["questions"]) == 2


def test_no_redacted_word_of_a_known_answer_is_saved(texts, known, tmp_path):
    fit(texts, answers=known, redact=[lambda text: text.replace("parcel", "X")]).save(tmp_path)
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"X late" in everything
    assert b"parcel" not in everything


def test_an_artifact_of_an_earlier_version_explains_what_it_holds(texts, known, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(15, 4)).astype(np.float32)
    settings = {"n_clusters": 3, "method": "paper", "progress": False, "oracle": First(), "max_questions": 5}
    model = ClusterLLM(**settings).fit(texts, embeddings=vectors, answers=known)
    model.save(tmp_path / "now")
    content, arrays = read_artifact(tmp_path / "now")
    del content["known"], arrays["first"]
    write_artifact(tmp_path / "then", content, arrays, model._answer_lines, None)
    told = ClusterLLM.load(tmp_path / "then").explain(0)
    assert told["questions"] == [found for found in model.explain(0)["questions"] if not found["known"]]
    assert told["margin"] == model.explain(0)["margin"]


# --- for people ------------------------------------------------------------------------------------------------


def printed(position, question, answer, **given):
    return list(lines_for_people(explained(position, asked=[(question, answer)], **given), "text"))


def test_people_read_the_cluster_the_next_best_one_and_the_questions():
    assert printed(0, CHOICE, Answer("2")) == [
        "text: kettle",
        "cluster 0: drinks, score 0.500",
        "nearest other: cluster 1: wheels, farther by 2.000",
        "questions about it: 1",
        "  where does it belong? 2",
        '    1: "bicycle", "teapot", "tea" (cluster 0: drinks; cluster 1: wheels)',
        '  * 2: "tyre" (cluster 1: wheels)',
        "questions that had it as an example: none",
    ]


def test_people_read_pairs_from_both_sides():
    assert '  the same category as "tyre" (cluster 1: wheels)? no' in printed(0, PAIR, Answer("no"))
    assert '  the same category as "kettle" (cluster 0: drinks)? no' in printed(4, PAIR, Answer("no"))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer("none"), "none of these"),
        (Answer(None), "no answer"),
        (Answer(None, error="timed\nout"), "no answer (timed out)"),
    ],
)
def test_people_read_why_nothing_was_chosen(answer, words):
    assert f"  where does it belong? {words}" in printed(0, CHOICE, answer)


def test_people_read_that_an_answer_was_given():
    told = explained(0, (PAIR, Answer("yes")))
    line = '  the same category as "tyre" (cluster 1: wheels)? yes, given with the texts'
    assert line in list(lines_for_people(told, "text"))


def test_people_read_that_a_text_is_nearer_to_another_cluster():
    assert "nearer by 1.265" in printed(5, PAIR, Answer("yes"))[2]


def test_people_read_that_a_text_is_empty():
    told = list(lines_for_people(explained(5, labels=np.array([0, 0, 0, 1, 1, -1])), "text"))
    assert told[1].startswith("note: the text is empty")
    assert not any("nearest" in line for line in told)


def test_people_read_that_a_text_is_not_there():
    assert printed(5, PAIR, Answer("yes"), texts=None)[0] == "text: (its text is not in this folder)"


def test_people_read_a_text_of_many_lines_in_one():
    assert printed(0, PAIR, Answer("yes"), texts=["a\nkettle", *TEXTS[1:]])[0] == "text: a kettle"


def test_a_long_example_is_cut_for_people():
    question = pair_question(["kettle", "x" * 101], 0, 1)
    assert f'"{"x" * 97}..."' in "".join(printed(0, question, Answer("no")))
