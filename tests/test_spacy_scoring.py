"""``clusterllm.scorer.v1``: clusters against gold categories."""

import spacy
from spacy.training import Example

from clusterllm_plugins.metrics import accuracy, ari, nmi
from spacy_kit import fitted


def examples(nlp, texts, truth):
    made = []
    for text, label in zip(texts, truth, strict=True):
        gold = nlp.make_doc(text)
        gold.cats = {label: 1.0, "another": 0.3} if label else {}
        made.append(Example(nlp.make_doc(text), gold))
    return made


def labels(nlp, texts):
    return [doc._.clusterllm_cluster for doc in nlp.pipe(texts)]


def test_evaluate_gives_the_papers_measures(texts, truth):
    nlp = fitted(texts)
    scores = nlp.evaluate(examples(nlp, texts, truth))
    found = labels(nlp, texts)
    assert scores["clusterllm_acc"] == accuracy(truth, found)
    assert scores["clusterllm_nmi"] == nmi(truth, found)
    assert scores["clusterllm_ari"] == ari(truth, found)


def test_docs_without_a_gold_category_do_not_count(texts, truth):
    nlp = fitted(texts)
    partly = [*truth[:10], *[None] * 5]
    scores = nlp.evaluate(examples(nlp, texts, partly))
    assert scores["clusterllm_acc"] == accuracy(truth[:10], labels(nlp, texts)[:10])


def test_categories_that_are_all_zero_are_none(texts, truth):
    nlp = fitted(texts)
    made = examples(nlp, texts, truth)
    for example in made:
        example.reference.cats = {"one": 0.0, "other": 0.0}
    assert nlp.evaluate(made)["clusterllm_acc"] is None


def test_without_gold_categories_there_is_no_score(texts):
    nlp = fitted(texts)
    assert nlp.evaluate(examples(nlp, texts, [None] * 15))["clusterllm_acc"] is None


def test_two_clusterers_have_two_scores(texts, truth):
    nlp = fitted(texts)
    nlp.add_pipe("clusterllm", name="coarse", config={"n_clusters": 2, "prefix": "coarse", "progress": False})
    nlp.get_pipe("coarse").fit([nlp.make_doc(text) for text in texts])
    scores = nlp.evaluate(examples(nlp, texts, truth))
    assert scores["coarse_acc"] <= 10 / 15
    assert scores["coarse_acc"] != scores["clusterllm_acc"]


def test_a_scorer_of_ones_own_takes_its_place(texts, truth):
    @spacy.registry.scorers("test_scorer")
    def make():
        return lambda examples, prefix, **kwargs: {f"{prefix}_count": len(list(examples))}

    nlp = fitted(texts, scorer={"@scorers": "test_scorer"})
    assert nlp.evaluate(examples(nlp, texts, truth))["clusterllm_count"] == 15


def test_no_scorer_no_scores(texts, truth):
    nlp = fitted(texts, scorer=None)
    assert "clusterllm_acc" not in nlp.evaluate(examples(nlp, texts, truth))


def test_spans_have_no_scores(texts, truth):
    nlp = fitted(texts)
    scorer = nlp.get_pipe("clusterllm").score
    nlp.get_pipe("clusterllm").span_key = "sents"
    assert scorer(examples(nlp, texts, truth)) == {}


def test_gold_categories_do_not_reach_the_method(texts, truth):
    nlp, other = fitted(texts), fitted(texts)
    for labels in (truth, truth[::-1]):
        made = examples(nlp, texts, labels)
        nlp.get_pipe("clusterllm").initialize(lambda made=made: made, nlp=nlp)
        assert (nlp.get_pipe("clusterllm").centroids == other.get_pipe("clusterllm").centroids).all()


def test_the_default_weight_is_on_accuracy():
    meta = spacy.blank("en").get_factory_meta("clusterllm")
    assert meta.default_score_weights == {"clusterllm_acc": 1.0, "clusterllm_nmi": 0.0, "clusterllm_ari": 0.0}
