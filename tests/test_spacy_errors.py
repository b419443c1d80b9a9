"""What a user is told: one line, with the component's name and what to do."""

import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spacy

from clusterllm_plugins import ClusterLLMError
from clusterllm_plugins.errors import PluginError, UnfittedError
from spacy_kit import LSA, fit, fitted, install_plugin, pipeline

ROOT = Path(__file__).resolve().parent.parent


def message(call, kind=ClusterLLMError):
    with pytest.raises(kind) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_embedder_before_it_when_fitted(texts):
    assert message(lambda: fit(pipeline(embedder=None), texts)) == (
        "component 'clusterllm': found no vector in doc._.clusterllm_vector: add 'clusterllm_embedder' before "
        "it, or set vectors to 'doc.vector' or 'doc.tensor'"
    )


def test_no_embedder_before_it_when_applied(texts):
    nlp = fitted(texts)
    nlp.remove_pipe("clusterllm_embedder")
    assert message(lambda: nlp(texts[0])) == (
        "component 'clusterllm': found no vector in doc._.clusterllm_vector: add 'clusterllm_embedder' before "
        "it, or set vectors to 'doc.vector' or 'doc.tensor'"
    )


def test_an_embedder_after_it_does_not_help(texts):
    nlp = pipeline(embedder=None)
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA})
    assert "add 'clusterllm_embedder' before it" in message(lambda: fit(nlp, texts))


def test_no_static_vectors(texts):
    assert message(lambda: fit(pipeline(embedder=None, vectors="doc.vector"), texts)) == (
        "component 'clusterllm': found no vector in doc.vector: the pipeline has no word vectors; add "
        "'clusterllm_embedder' and set vectors to its attribute"
    )


def test_no_tensor(texts):
    assert message(lambda: fit(pipeline(embedder=None, vectors="doc.tensor"), texts)) == (
        "component 'clusterllm': found no vector in doc.tensor: add a component before it that sets doc.tensor, as "
        "'tok2vec'"
    )


def test_not_fitted(texts):
    nlp = pipeline()
    nlp.get_pipe("clusterllm_embedder").fit([nlp.make_doc(text) for text in texts])
    expected = (
        "component 'clusterllm' is not fitted: call nlp.get_pipe('clusterllm').fit(docs), or nlp.initialize() with a "
        "corpus in [initialize.components.clusterllm.corpus]"
    )
    assert message(lambda: nlp(texts[0]), UnfittedError) == expected
    assert message(lambda: list(nlp.pipe(texts)), UnfittedError) == expected
    assert issubclass(UnfittedError, ValueError)


def test_a_corpus_of_one_doc():
    assert message(lambda: fit(pipeline(), ["parcel late"])) == (
        "component 'clusterllm': clustering needs at least two texts that are not empty, got 1"
    )


def test_a_corpus_of_one_doc_teaches_the_embedder_nothing():
    nlp = pipeline()
    message(lambda: fit(nlp, ["parcel late"]))
    assert not nlp.get_pipe("clusterllm_embedder").fitted


def test_empty_docs():
    assert message(lambda: fit(pipeline(), ["", " ", "\n"])) == (
        "component 'clusterllm': clustering needs at least two texts that are not empty, got 0"
    )
    assert message(lambda: fit(pipeline(), ["", " "], "clusterllm_embedder")) == (
        "component 'clusterllm_embedder': the corpus has no text that is not empty"
    )


def test_more_clusters_than_texts():
    assert message(lambda: fit(pipeline(n_clusters=5), ["one", "two", "two", "three"])) == (
        "component 'clusterllm': cannot make 5 clusters out of 3 distinct texts"
    )


def test_a_wrong_oracle_name(texts):
    assert message(lambda: fit(pipeline(), texts, oracle="opanai")).startswith(
        "component 'clusterllm': unknown oracle 'opanai'; did you mean 'openai'? (known: "
    )


def test_a_wrong_oracle_name_in_the_config(texts):
    nlp = pipeline()
    block = {"@misc": "clusterllm.Oracle.v1", "name": "opanai"}
    nlp.config["initialize"]["components"]["clusterllm"] = {"oracle": block}
    assert message(nlp.initialize, PluginError).startswith("unknown oracle 'opanai'; did you mean 'openai'?")


def test_a_wrong_embedder_name():
    assert message(lambda: pipeline("lsaa")).startswith(
        "component 'clusterllm_embedder': unknown embedder 'lsaa'; did you mean 'lsa'? (known: "
    )


KEY = "sk-proj-0123456789abcdefABCDEF"


@pytest.mark.parametrize(
    ("oracle", "expected"),
    [
        (
            {"name": "openai", "api_key_env": KEY},
            "component 'clusterllm': oracle 'openai': the setting 'api_key_env' looks like a key; put the key into an "
            "environment variable and give that one's name",
        ),
        (
            {"name": "openai", "api_key": KEY},
            "component 'clusterllm': oracle 'openai': the setting 'api_key' looks like a key; put the key into an "
            "environment variable and give that one's name",
        ),
        (
            {"name": "openai", "api_key_env": "my secret"},
            "component 'clusterllm': oracle 'openai': api_key_env takes the name of an environment variable, not a key",
        ),
    ],
)
def test_a_key_in_the_config(texts, oracle, expected):
    nlp = pipeline()
    nlp.config["initialize"]["components"]["clusterllm"] = {
        "corpus": {"@readers": "clusterllm.Jsonl.v1", "path": str(ROOT / "examples" / "messages.jsonl"), "limit": 20},
        "oracle": oracle,
    }
    assert message(nlp.initialize) == expected


def test_a_key_in_a_components_settings():
    told = message(lambda: pipeline({"name": "sentence-transformers", "model": "m", "prefix": KEY}))
    assert "the setting 'prefix' looks like a key" in told
    assert KEY not in told


@pytest.mark.parametrize(
    "value", ["sklearn-based-model-2", "hf-internal-testing/tiny-bert-2", "gpt-4o-mini-2024-07-18"]
)
def test_a_models_name_is_no_key(value):
    pipeline({"name": "sentence-transformers", "model": value})


def test_a_vector_of_the_wrong_size(texts):
    nlp = fitted(texts)
    doc = nlp.make_doc(texts[0])
    doc._.clusterllm_vector = np.ones(5, dtype=np.float32)
    with nlp.select_pipes(enable=["clusterllm"]):
        assert message(lambda: nlp(doc)) == (
            "component 'clusterllm': doc._.clusterllm_vector holds vectors of size 5, it was fitted on size 8: use the "
            "embedder that it was fitted with, or fit it again"
        )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.ones((2, 4)), "doc._.clusterllm_vector must hold vectors of shape (dim,), not (2, 4)"),
        ("abc", "doc._.clusterllm_vector holds str, not a vector"),
        (np.full(8, np.nan), "doc._.clusterllm_vector holds a vector that is not finite"),
    ],
)
def test_what_is_no_vector(texts, value, expected):
    nlp = fitted(texts)
    doc = nlp.make_doc(texts[0])
    doc._.clusterllm_vector = value
    with nlp.select_pipes(enable=["clusterllm"]):
        assert message(lambda: nlp(doc)) == f"component 'clusterllm': {expected}"


def test_vectors_of_different_sizes(texts):
    nlp = pipeline(embedder=None)
    docs = [nlp.make_doc(text) for text in texts]
    for size, doc in enumerate(docs, start=3):
        doc._.clusterllm_vector = np.ones(min(size, 4), dtype=np.float32)
    assert message(lambda: nlp.get_pipe("clusterllm").fit(docs)) == (
        "component 'clusterllm': doc._.clusterllm_vector holds vectors of different sizes: (3,), (4,)"
    )


@pytest.mark.parametrize("factory", ["clusterllm", "clusterllm_granularity"])
def test_an_instruction_that_is_not_a_text(factory):
    add = lambda: spacy.blank("en").add_pipe(factory, config={"instruction": 3})  # noqa: E731
    assert message(add) == f"component '{factory}': instruction must be a text or None, not 3"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"method": "papers"}, "method must be one of auto, paper, not 'papers'; did you mean 'paper'?"),
        ({"n_clusters": 2.5}, "n_clusters must be a whole number, (low, high) or 'auto', not 2.5"),
        ({"n_clusters": [9, 3]}, "n_clusters must be at least 1, and low at most high, not [9, 3]"),
        ({"max_questions": -1}, "max_questions must be a whole number of at least 0, not -1"),
        ({"vectors": "doc.text"}, "vectors must be 'doc._.NAME', 'doc.vector' or 'doc.tensor', not 'doc.text'"),
        ({"vectors": 3}, "vectors must be 'doc._.NAME', 'doc.vector' or 'doc.tensor', not 3"),
        ({"refine": "both"}, "refine must be one of auto, embedder, map, not 'both'"),
        ({"span_key": 3}, "span_key must be the name of a group of spans or None, not 3"),
        ({"span_key": ""}, "span_key must be the name of a group of spans or None, not ''"),
        ({"span_key": "sents", "write_cats": True}, "write_cats works on docs, not with span_key"),
        ({"prefix": "two words"}, "prefix must be a name such as 'clusterllm', not 'two words'"),
        ({"redact": "emails"}, "redact must be a list of redactors, not 'emails'"),
        (
            {"redact": ["emals"]},
            "unknown redactor 'emals'; did you mean 'emails'? (known: emails, names, numbers, patterns, phones)",
        ),
        (
            {"demonstrations": [["a", "b", "maybe"]]},
            "a demonstration is (left, right, 'yes' or 'no'), not ('a', 'b', 'maybe')",
        ),
        ({"random_state": -3}, "random_state must be at least 0, not -3"),
    ],
)
def test_a_setting_without_a_meaning(settings, expected):
    assert message(lambda: pipeline(embedder=None, **settings)) == f"component 'clusterllm': {expected}"


def test_an_embedder_that_cannot_be_trained(texts):
    assert message(lambda: fit(pipeline(refine="embedder"), texts)) == (
        "component 'clusterllm': refine is 'embedder', but there is no component before it whose embedder can "
        "be trained"
    )


def test_sourcing_unfitted(texts):
    source = pipeline()
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", source=source)
    nlp.add_pipe("clusterllm", name="topics", source=source)
    assert message(lambda: nlp(texts[0]), UnfittedError).startswith("component 'clusterllm_embedder' is not fitted: ")
    nlp.get_pipe("clusterllm_embedder").fit([nlp.make_doc(text) for text in texts])
    assert message(lambda: nlp(texts[0]), UnfittedError) == (
        "component 'topics' is not fitted: call nlp.get_pipe('topics').fit(docs), or nlp.initialize() with a corpus in "
        "[initialize.components.topics.corpus]"
    )


def test_an_embedder_of_something_else(texts):
    nlp = pipeline(span_key="sents")
    assert message(lambda: fit(nlp, texts)) == (
        "component 'clusterllm': span_key is 'sents', that of 'clusterllm_embedder' None: make them equal"
    )


def test_redaction_on_one_side_only(texts, tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert message(lambda: fit(pipeline(redact=["shout"]), texts)) == (
        "component 'clusterllm': redact is ['shout'], that of 'clusterllm_embedder' []: make them equal"
    )


def test_no_sentences(texts):
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA, "span_key": "sents"})
    assert message(lambda: fit(nlp, texts, "clusterllm_embedder")) == (
        "component 'clusterllm_embedder': span_key 'sents' needs sentences: add a component before it that sets "
        "them, as "
        "'sentencizer'"
    )


def test_no_spans(texts):
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA, "span_key": "parts"})
    nlp.add_pipe("clusterllm", config={"n_clusters": 2, "span_key": "parts"})
    assert message(lambda: fit(nlp, texts)) == "component 'clusterllm': no doc of the corpus has spans under 'parts'"


def test_a_pickled_component_must_be_given_its_pipeline(texts):
    import pickle

    component = pickle.loads(pickle.dumps(pipeline().get_pipe("clusterllm")))
    assert message(lambda: component.fit([])) == "component 'clusterllm': give the pipeline too: nlp=nlp"


def test_a_component_whose_pipeline_is_gone_must_be_given_one():
    component = pipeline().get_pipe("clusterllm")
    gc.collect()
    assert message(lambda: component.fit([])) == "component 'clusterllm': give the pipeline too: nlp=nlp"


def test_a_corpus_that_is_no_reader():
    nlp = pipeline()
    call = lambda: nlp.get_pipe("clusterllm").initialize(list, nlp=nlp, corpus="texts.jsonl")  # noqa: E731
    assert message(call) == "component 'clusterllm': corpus must be a reader such as 'clusterllm.Jsonl.v1', not str"


def test_spacys_own_check_names_a_wrong_type_in_initialize():
    nlp = pipeline()
    nlp.config["initialize"]["components"]["clusterllm"] = {"corpus": "texts.jsonl"}
    with pytest.raises(ValueError, match="clusterllm -> corpus"):
        nlp.initialize()


def test_a_missing_extra(tmp_path):
    code = """
import importlib.util, spacy
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "sentence_transformers" else real(name, *rest)
nlp = spacy.blank("en")
try:
    nlp.add_pipe("clusterllm_embedder", config={"embedder": "minilm"})
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == (
        "component 'clusterllm_embedder': embedder 'minilm' needs an extra: pip install 'clusterllm-plugins[offline]'"
    )
