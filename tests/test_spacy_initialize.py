"""How components are fitted: readers, configs, oracles, and what ``nlp.initialize`` does to the rest."""

import dataclasses
import json

import numpy as np
import pytest
import spacy
from spacy.tokens import DocBin, Span

from clusterllm_plugins import Answer, ClusterLLMError, ClusterLLMWarning, OracleError
from clusterllm_plugins.errors import DataError, UnfittedError
from clusterllm_plugins.spacy.registered import make_embedder, make_oracle
from spacy_kit import LSA, ByTruth, clusters, corpus, fit, install_plugin, pipeline, same_partition


@pytest.fixture
def jsonl(texts, truth, tmp_path):
    path = tmp_path / "texts.jsonl"
    records = [{"text": text, "label": label} for text, label in zip(texts, truth, strict=True)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def reader(name, **settings):
    return spacy.registry.readers.get(name)(**settings)


def configured(nlp, **blocks):
    """Put blocks under [initialize.components.clusterllm]."""
    nlp.config["initialize"]["components"]["clusterllm"] = blocks
    return nlp


def test_the_jsonl_reader_gives_the_texts(jsonl, texts):
    examples = list(reader("clusterllm.Jsonl.v1", path=str(jsonl))(spacy.blank("en")))
    assert [example.predicted.text for example in examples] == texts
    assert {str(example.reference.cats) for example in examples} == {"{}"}


def test_the_jsonl_reader_gives_gold_categories(jsonl, truth):
    examples = reader("clusterllm.Jsonl.v1", path=str(jsonl), label_field="label")(spacy.blank("en"))
    for example, label in zip(examples, truth, strict=True):
        assert example.reference.cats == {label: 1.0}
        assert example.predicted.cats == {}


def test_the_jsonl_reader_stops_at_its_limit(jsonl, texts):
    examples = list(reader("clusterllm.Jsonl.v1", path=str(jsonl), limit=4)(spacy.blank("en")))
    assert [example.predicted.text for example in examples] == texts[:4]


def test_the_jsonl_reader_reads_plain_text_too(tmp_path):
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    examples = list(reader("clusterllm.Jsonl.v1", path=str(tmp_path / "texts.txt"))(spacy.blank("en")))
    assert [example.predicted.text for example in examples] == ["one", "two"]


def test_the_jsonl_reader_names_the_line(tmp_path):
    (tmp_path / "texts.jsonl").write_text('{"text": "one"}\n{"txt": "two"}\n')
    read = reader("clusterllm.Jsonl.v1", path=str(tmp_path / "texts.jsonl"))
    with pytest.raises(DataError, match=r"texts.jsonl, line 2: no field 'text' \(fields: 'txt'\)"):
        list(read(spacy.blank("en")))


def test_nothing_is_read_before_the_corpus_is_needed(tmp_path):
    reader("clusterllm.Jsonl.v1", path=str(tmp_path / "missing.jsonl"))
    reader("clusterllm.DocBin.v1", path=str(tmp_path / "missing.spacy"))


def docbin(path, nlp, texts, start=0):
    docs = [nlp.make_doc(text) for text in texts]
    for doc in docs:
        doc.spans["all"] = [Span(doc, 0, len(doc))]
    DocBin(docs=docs).to_disk(path)


def test_the_docbin_reader_keeps_annotations(texts, tmp_path):
    nlp = spacy.blank("en")
    docbin(tmp_path / "a.spacy", nlp, texts)
    examples = list(reader("clusterllm.DocBin.v1", path=str(tmp_path / "a.spacy"))(nlp))
    assert [example.predicted.text for example in examples] == texts
    assert all("all" in example.predicted.spans for example in examples)


def test_the_docbin_reader_reads_a_folder_up_to_its_limit(texts, tmp_path):
    nlp = spacy.blank("en")
    docbin(tmp_path / "a.spacy", nlp, texts[:5])
    docbin(tmp_path / "b.spacy", nlp, texts[5:])
    examples = list(reader("clusterllm.DocBin.v1", path=str(tmp_path), limit=7)(nlp))
    assert [example.predicted.text for example in examples] == texts[:7]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.spacy", None, "missing.spacy: cannot be read (No such file or directory)"),
        ("other.spacy", b"not that", "other.spacy: not a .spacy file"),
    ],
)
def test_the_docbin_reader_names_the_file(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(reader("clusterllm.DocBin.v1", path=str(tmp_path / name))(spacy.blank("en")))
    assert str(caught.value) == f"{tmp_path}/{message}"


def test_an_empty_folder_holds_no_docs(tmp_path):
    with pytest.raises(DataError, match="holds no docs"):
        list(reader("clusterllm.DocBin.v1", path=str(tmp_path))(spacy.blank("en")))


def test_a_corpus_in_the_config_fits_all(jsonl, texts):
    nlp = configured(pipeline(), corpus={"@readers": "clusterllm.Jsonl.v1", "path": str(jsonl)})
    nlp.initialize()
    assert set(clusters(nlp.pipe(texts))) == {0, 1, 2}


def test_spacys_own_corpus_reader_will_do(texts, tmp_path):
    docbin(tmp_path / "a.spacy", spacy.blank("en"), texts)
    block = {"@readers": "spacy.Corpus.v1", "path": str(tmp_path / "a.spacy"), "gold_preproc": False, "max_length": 0}
    nlp = configured(pipeline(), corpus={**block, "limit": 0, "augmenter": None})
    nlp.initialize()
    assert set(clusters(nlp.pipe(texts))) == {0, 1, 2}


def test_texts_docs_and_examples_are_all_a_corpus(texts):
    examples = [spacy.training.Example.from_dict(spacy.blank("en").make_doc(text), {}) for text in texts]
    made = []
    for items in (texts, [spacy.blank("en").make_doc(text) for text in texts], examples):
        nlp = pipeline()
        nlp.get_pipe("clusterllm").initialize(list, nlp=nlp, corpus=lambda _, items=items: items)
        made.append(nlp.get_pipe("clusterllm").centroids)
    assert (made[0] == made[1]).all()
    assert (made[0] == made[2]).all()


def test_something_else_is_no_corpus():
    nlp = pipeline()
    with pytest.raises(ClusterLLMError, match="a corpus holds examples, docs or texts, not int"):
        nlp.get_pipe("clusterllm").initialize(list, nlp=nlp, corpus=lambda _: [1, 2])


@pytest.mark.parametrize(("items", "kind"), [("parcel late", "str"), (None, "NoneType")])
def test_a_single_text_is_no_corpus(items, kind):
    with pytest.raises(ClusterLLMError, match=f"a corpus holds examples, docs or texts, it is not {kind} itself"):
        pipeline().get_pipe("clusterllm").initialize(tuple, nlp=pipeline(), corpus=lambda _: items)


def test_without_a_corpus_it_warns_and_stays_unfitted(texts):
    nlp = pipeline()
    with pytest.warns(ClusterLLMWarning) as caught:
        nlp.initialize()
    assert [str(warning.message) for warning in caught] == [
        "component 'clusterllm' has no corpus and learns nothing: give it one in "
        "[initialize.components.clusterllm.corpus]"
    ]
    with pytest.raises(UnfittedError):
        nlp(texts[0])


def test_what_it_has_learnt_survives_an_initialize_without_a_corpus(texts):
    nlp = pipeline()
    fit(nlp, texts)
    before = nlp.get_pipe("clusterllm").centroids
    with pytest.warns(ClusterLLMWarning, match="has no corpus"):
        nlp.initialize()
    assert nlp.get_pipe("clusterllm").centroids is before


def test_an_oracle_block_is_resolved_by_initialize_only(jsonl):
    made = []

    @spacy.registry.misc("test_oracle_counted")
    def make():
        made.append(1)

    nlp = configured(
        pipeline(),
        corpus={"@readers": "clusterllm.Jsonl.v1", "path": str(jsonl)},
        oracle={"@misc": "test_oracle_counted"},
    )
    loaded = spacy.util.load_model_from_config(nlp.config, auto_fill=True)
    assert made == []
    loaded.initialize()
    assert made == [1]


def test_an_oracle_by_misc_is_asked(jsonl, texts, truth):
    oracle = ByTruth(texts, truth)
    spacy.registry.misc("test_oracle_by_truth", func=lambda: oracle)
    blocks = {
        "corpus": {"@readers": "clusterllm.Jsonl.v1", "path": str(jsonl)},
        "oracle": {"@misc": "test_oracle_by_truth"},
    }
    nlp = configured(pipeline(), **blocks)
    nlp.initialize()
    assert oracle.asked
    assert same_partition(clusters(nlp.pipe(texts)), truth)


def test_an_oracle_that_is_a_dataclass_arrives_whole(jsonl):
    # spaCy passes settings through pydantic, which makes a dict of a dataclass.
    @dataclasses.dataclass
    class First:
        fingerprint: str = "first"

        def answer(self, questions):
            return [Answer(question.choices[0]) for question in questions]

    spacy.registry.misc("test_oracle_dataclass", func=First)
    nlp = configured(
        pipeline(max_questions=5),
        corpus={"@readers": "clusterllm.Jsonl.v1", "path": str(jsonl)},
        oracle={"@misc": "test_oracle_dataclass"},
    )
    nlp.initialize()
    assert nlp.get_pipe("clusterllm").report["questions"]["asked"] == 5


def test_a_registered_oracle_is_reached_from_a_config(jsonl, texts, truth):
    labels = jsonl.with_name("labels.jsonl")
    labels.write_text("".join(json.dumps({"label": label}) + "\n" for label in truth))
    settings = {"labels": str(labels), "profile": "uniform", "accuracy": 1.0}
    blocks = [
        {"@misc": "clusterllm.Oracle.v1", "name": "simulated", "settings": settings},
        {"name": "simulated", **settings},
    ]
    for block in blocks:
        nlp = configured(
            pipeline(max_questions=6),
            corpus={"@readers": "clusterllm.Jsonl.v1", "path": str(jsonl)},
            oracle=block,
        )
        nlp.initialize()
        assert nlp.get_pipe("clusterllm").report["questions"]["asked"] == 6
        assert nlp.get_pipe("clusterllm").report["oracle"].startswith("simulated")


def test_a_registered_oracle_is_reached_by_its_name(texts, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(OracleError, match="the environment variable OPENAI_API_KEY holds no key"):
        fit(pipeline(), texts, oracle="openai")


def test_a_missing_key_is_told_before_the_embedder_learns(texts, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    nlp = pipeline()
    with pytest.raises(OracleError):
        fit(nlp, texts, oracle="openai")
    assert not nlp.get_pipe("clusterllm_embedder").fitted


def test_a_model_of_spacy_llm_is_an_oracle(texts):
    prompts = []

    def model(batch):
        for shards in batch:
            prompts.extend(shards)
            yield ["1" for _ in shards]

    nlp = pipeline(max_questions=5)
    fit(nlp, texts, oracle=model)
    assert len(prompts) == 5
    assert nlp.get_pipe("clusterllm").report["questions"]["abstained"] == 0


def test_a_block_of_llm_models_is_an_oracle(jsonl):
    pytest.importorskip("spacy_llm", reason="the extra spacy-llm is not installed")
    nlp = configured(
        pipeline(max_questions=5),
        corpus={"@readers": "clusterllm.Jsonl.v1", "path": str(jsonl)},
        oracle={"@llm_models": "spacy.NoOp.v1"},
    )
    nlp.initialize()
    questions = nlp.get_pipe("clusterllm").report["questions"]
    assert (questions["asked"], questions["abstained"]) == (5, 5)


def test_misc_makes_registered_components():
    assert make_oracle("openai", {"model": "other", "api_key_env": None}).model == "other"
    assert make_embedder("lsa", {"dimensions": 4}) == {"name": "lsa", "dimensions": 4}


def test_misc_refuses_unknown_names_and_settings():
    with pytest.raises(ClusterLLMError, match="unknown embedder 'lsaa'; did you mean 'lsa'"):
        make_embedder("lsaa")
    with pytest.raises(ClusterLLMError, match="embedder 'lsa' has no setting 'dims'"):
        make_embedder("lsa", {"dims": 4})


def test_an_embedder_by_misc_is_used_and_written_back(texts):
    nlp = pipeline({"@misc": "clusterllm.Embedder.v1", "name": "lsa", "settings": {"dimensions": 5}})
    fit(nlp, texts)
    assert nlp(texts[0])._.clusterllm_vector.shape == (5,)
    block = nlp.config["components"]["clusterllm_embedder"]["embedder"]
    assert block == {"@misc": "clusterllm.Embedder.v1", "name": "lsa", "settings": {"dimensions": 5}}


def test_components_before_it_annotate_the_corpus():
    @spacy.Language.component("test_first_letters")
    def first_letters(doc):
        doc.tensor = np.array([[ord(token.text[0]) / 100, 1.0] for token in doc], dtype=np.float32)
        return doc

    nlp = spacy.blank("en")
    nlp.add_pipe("test_first_letters")
    nlp.add_pipe("clusterllm", config={"n_clusters": 2, "vectors": "doc.tensor", "progress": False})
    texts = ["a1", "a2", "z1", "z2"]
    fit(nlp, texts)
    assert same_partition(clusters(nlp.pipe(texts)), [0, 0, 1, 1])


def test_the_corpus_has_our_vectors_for_who_makes_others_of_them(texts, tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": "words", "set_doc_vector": True})
    nlp.add_pipe("clusterllm", config={"n_clusters": 3, "vectors": "doc.vector", "progress": False})
    fit(nlp, texts)
    assert set(clusters(nlp.pipe(texts))) == {0, 1, 2}


def test_components_after_it_do_not_annotate_the_corpus(texts):
    @spacy.Language.component("test_refuses")
    def refuses(doc):
        raise AssertionError("called")

    nlp = pipeline(embedder=None, vectors="doc.tensor")
    nlp.add_pipe("tok2vec", first=True)
    nlp.get_pipe("tok2vec").initialize(lambda: [spacy.training.Example.from_dict(nlp.make_doc(texts[0]), {})], nlp=nlp)
    nlp.add_pipe("test_refuses")
    fit(nlp, texts)
    assert nlp.get_pipe("clusterllm").fitted


def test_one_example_of_the_users_own_is_not_passed_over():
    nlp = pipeline()
    with pytest.raises(DataError, match="clustering needs at least two texts that are not empty, got 1"):
        nlp.initialize(lambda: [spacy.training.Example.from_dict(nlp.make_doc("parcel late"), {})])


def test_disabled_components_annotate_the_corpus_too(texts):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA, "span_key": "sents"})
    nlp.add_pipe("clusterllm", config={"n_clusters": 3, "span_key": "sents", "progress": False})
    nlp.config["initialize"]["components"]["clusterllm"] = {}
    with nlp.select_pipes(enable=["clusterllm_embedder", "clusterllm"]):
        nlp.get_pipe("clusterllm").initialize(list, nlp=nlp, corpus=corpus(texts))
    assert nlp.get_pipe("clusterllm").fitted


def test_select_pipes_keeps_others_from_being_initialized(jsonl):
    nlp = spacy.blank("en")
    tagger = nlp.add_pipe("tagger")
    tagger.add_label("N")
    nlp.initialize()
    before = tagger.model.get_ref("softmax").get_param("W") + 1.0
    tagger.model.get_ref("softmax").set_param("W", before)
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA})
    nlp.add_pipe("clusterllm", config={"n_clusters": 3, "progress": False})
    configured(nlp, corpus={"@readers": "clusterllm.Jsonl.v1", "path": str(jsonl)})
    with nlp.select_pipes(enable=["clusterllm_embedder", "clusterllm"]):
        nlp.initialize()
    assert nlp.get_pipe("clusterllm").fitted
    assert (tagger.model.get_ref("softmax").get_param("W") == before).all()


def test_fitting_leaves_the_docs_it_is_given_alone(texts):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA, "span_key": "sents"})
    clusterer = nlp.add_pipe("clusterllm", config={"n_clusters": 3, "span_key": "sents", "progress": False})
    docs = [nlp.make_doc(text) for text in texts]
    before = [doc.to_bytes() for doc in docs]
    clusterer.fit(docs)
    assert [doc.to_bytes() for doc in docs] == before


def test_the_store_keeps_the_answers(texts, truth, tmp_path):
    path = tmp_path / "answers.sqlite"
    first, second = ByTruth(texts, truth), ByTruth(texts, truth)
    fit(pipeline(store=str(path)), texts, oracle=first)
    nlp = pipeline(store=str(path))
    fit(nlp, texts, oracle=second)
    assert first.asked
    assert second.asked == []
    assert nlp.get_pipe("clusterllm").report["questions"]["recalled"] == len(first.asked)


def test_answers_are_read_from_a_file(texts, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"kind": "choice", "indices": [0, [3], [7]], "choice": "1"}) + "\n")
    nlp = pipeline()
    fit(nlp, texts, answers=str(path))
    assert nlp.get_pipe("clusterllm").report["triplets"] == [1]


@pytest.mark.usefixtures("monkeypatch")
def test_any_registered_plugin_is_reached_from_a_config(texts, tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    nlp = pipeline({"@misc": "clusterllm.Embedder.v1", "name": "words"})
    fit(nlp, texts)
    assert nlp(texts[0])._.clusterllm_vector.shape == (16,)
