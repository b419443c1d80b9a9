import warnings

import numpy as np
import pytest

from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from clusterllm_embedders.finetuning import Training, triplet_loss  # noqa: E402
from clusterllm_embedders.gradients import Gradients  # noqa: E402
from clusterllm_embedders.token_table import TokenTable  # noqa: E402
from tiny_model_kit import TEXTS, WORDS, random_triplets, tiny_embedder, write_tiny_model  # noqa: E402

BATCH = random_triplets(12)
BATCH[0] = BATCH[1]


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def model(folder):
    return tiny_embedder(folder).model.double().train()


def loss_of(vectors, batch, rows):
    places = torch.from_numpy(np.searchsorted(rows, batch))
    return triplet_loss(*vectors[places].unbind(1), 0.05)


def gradients_of(model, run):
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)
    loss = float(run())
    # Nothing depends on the pooler: no gradient.
    return loss, {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def ours(model, batch=BATCH, **settings):
    rows = np.unique(batch)
    gradients = Gradients(model, TokenTable(model, TEXTS), "fp32", **settings)
    return lambda: gradients.step(rows, lambda vectors: loss_of(vectors, batch, rows))


def plain(model, batch=BATCH):
    """The plain implementation: each text of each triplet by itself, through the tokenizer of the library."""

    def run():
        columns = []
        for column in batch.T:
            features = model.preprocess([TEXTS[row] for row in column])
            columns.append(model(features)["sentence_embedding"])
        loss = triplet_loss(*columns, 0.05)
        loss.backward()
        return loss.detach()

    return run


def assert_equal_gradients(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    assert sum(len(value.flatten()) for value in found[1].values()) > 1000
    for name, value in expected[1].items():
        assert torch.allclose(found[1][name], value, rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize("settings", [{}, {"tokens": 24}, {"tokens": 24, "plain_tokens": 0}, {"plain_tokens": 0}])
def test_gradients_are_those_of_the_plain_implementation(model, settings):
    model.eval()  # without dropout: there the plain implementation draws other numbers
    expected = gradients_of(model, plain(model))
    assert_equal_gradients(gradients_of(model, ours(model, **settings)), expected)


def test_gradcache_gives_the_same_gradients_with_dropout(model):
    expected = gradients_of(model, ours(model, tokens=24))
    assert_equal_gradients(gradients_of(model, ours(model, tokens=24, plain_tokens=0)), expected)
    model.eval()
    assert not np.isclose(gradients_of(model, ours(model, tokens=24))[0], expected[0])


def test_gradcache_leaves_the_random_state_where_plain_training_does(model):
    states = []
    for settings in ({}, {"plain_tokens": 0}):
        gradients_of(model, ours(model, tokens=24, **settings))
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def passes_of(model, run):
    seen = []
    hook = model[0].register_forward_pre_hook(
        lambda _, inputs: seen.append((torch.is_grad_enabled(), inputs[0]["input_ids"]))
    )
    run()
    hook.remove()
    return seen


def test_a_large_step_goes_through_the_model_twice_a_small_one_once(model):
    small = [grad for grad, _ in passes_of(model, ours(model, tokens=24))]
    large = [grad for grad, _ in passes_of(model, ours(model, tokens=24, plain_tokens=50))]
    assert small == [True] * len(small)
    assert large == [False] * len(small) + [True] * len(small)


def test_each_distinct_text_of_a_step_is_encoded_once_the_longest_first(model):
    ids = [ids for _, ids in passes_of(model, ours(model, tokens=24))]
    lengths = [int((row != 0).sum()) for part in ids for row in part]
    assert len(lengths) == len(np.unique(BATCH))
    assert lengths == sorted(lengths, reverse=True)
    assert all(part.numel() <= 24 or len(part) == 1 for part in ids)
    assert all((part[0] != 0).all() for part in ids)  # no wider than the longest


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_features_are_those_of_the_library(model, side):
    model.tokenizer.padding_side = side
    rows = [4, 0, 17, 9]
    found = TokenTable(model, TEXTS).features(rows)
    expected = model.preprocess([TEXTS[row] for row in rows])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value


# Out of memory: a model that refuses more than so many tokens at once


def refuse(model, monkeypatch, limit):
    real = model[0].forward

    def forward(features, **kwargs):
        if features["input_ids"].numel() > limit:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(features, **kwargs)

    monkeypatch.setattr(model[0], "forward", forward)


def test_a_step_that_does_not_fit_is_halved_tried_again_and_said_once(model, monkeypatch):
    model.eval()
    expected = gradients_of(model, plain(model))
    refuse(model, monkeypatch, 40)
    run = ours(model, tokens=256)
    with pytest.warns(
        ClusterLLMWarning, match="^fine-tuning: out of memory; it goes on with 128 tokens at once"
    ) as said:
        assert_equal_gradients(gradients_of(model, run), expected)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal_gradients(gradients_of(model, run), expected)


def test_a_step_that_was_halved_has_the_dropout_of_one_that_was_small(model, monkeypatch):
    expected = gradients_of(model, ours(model, tokens=32, plain_tokens=0))
    refuse(model, monkeypatch, 40)
    with pytest.warns(ClusterLLMWarning):
        assert_equal_gradients(gradients_of(model, ours(model, tokens=256)), expected)


def test_a_text_that_does_not_fit_alone_ends_it_with_one_line(model, monkeypatch):
    refuse(model, monkeypatch, 6)
    with (
        pytest.warns(ClusterLLMWarning),
        pytest.raises(ClusterLLMError, match=r"out of memory at a text of \d+ tokens"),
    ):
        ours(model)()


def test_another_error_stays_what_it_is(model, monkeypatch):
    monkeypatch.setattr(model[0], "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        ours(model)()


def test_training_in_bf16_with_gradcache_moves_all_layers(folder, monkeypatch):
    # Autocast keeps weights that it has converted: those of the pass without gradients must not be used again.
    monkeypatch.setattr("clusterllm_embedders.gradients.PLAIN_TOKENS", 0)
    model = tiny_embedder(folder).model.train()
    found = gradients_of(model, ours(model, plain_tokens=0, tokens=24))[1]
    rows = np.unique(BATCH)
    gradients = Gradients(model, TokenTable(model, TEXTS), "bf16", tokens=24, plain_tokens=0)
    low = gradients_of(model, lambda: gradients.step(rows, lambda vectors: loss_of(vectors, BATCH, rows)))[1]
    assert low.keys() == found.keys()


def test_finetuning_takes_batch_tokens(folder):
    whole, parts = (tiny_embedder(folder, batch_tokens=tokens) for tokens in (4096, 24))
    fast = Training(learning_rate=1e-2, batch_size=4, epochs=1)
    vectors = [embedder.finetune(TEXTS, BATCH, training=fast).embed(WORDS) for embedder in (whole, parts)]
    assert not np.array_equal(*vectors)  # other dropout
