from itertools import product

import numpy as np
import pytest

from clusterllm_embedders.lsa import LSAEmbedder
from clusterllm_plugins.errors import ArtifactError, ClusterLLMError
from clusterllm_plugins.testing import check_embedder

CORPUS = [
    "the train to the coast is late",
    "my train was cancelled again",
    "when does the night train leave",
    "this soup needs more pepper",
    "add pepper and salt to the soup",
    "the soup is too hot to eat",
]


@pytest.fixture(scope="module")
def embedder():
    fitted = LSAEmbedder(dimensions=4)
    fitted.fit(CORPUS)
    return fitted


@pytest.fixture(scope="module")
def folder(embedder, tmp_path_factory):
    saved = tmp_path_factory.mktemp("lsa")
    embedder.save(saved)
    return saved


def test_it_keeps_the_contract():
    check_embedder(LSAEmbedder)


def test_vectors_have_length_one(embedder):
    assert np.allclose(np.linalg.norm(embedder.embed(CORPUS), axis=1), 1, atol=1e-6)


def test_vectors_are_float32_of_the_size_that_was_set(embedder):
    vectors = embedder.embed(CORPUS)
    assert (vectors.shape, vectors.dtype) == ((6, 4), np.float32)


def test_a_small_corpus_gives_smaller_vectors():
    embedder = LSAEmbedder(dimensions=128)
    embedder.fit(CORPUS)
    assert embedder.embed(CORPUS).shape == (6, 6)


def test_in_a_small_corpus_a_term_of_a_single_text_counts():
    embedder = LSAEmbedder(min_texts=2)
    embedder.fit(["quartz", "velvet"])
    assert embedder.embed(["quartz"]).any()


def test_in_a_large_corpus_a_term_of_a_single_text_does_not_count():
    embedder = LSAEmbedder(dimensions=2, min_texts=2)
    embedder.fit(["quartz", *["velvet", "linen"] * 500])
    assert not embedder.embed(["quartz"]).any()


def test_texts_about_one_thing_are_nearer_than_others(embedder):
    likeness = embedder.embed(CORPUS) @ embedder.embed(CORPUS).T
    within = [likeness[i, j] for i, j in product(range(6), repeat=2) if i // 3 == j // 3 and i != j]
    across = [likeness[i, j] for i, j in product(range(6), repeat=2) if i // 3 != j // 3]
    assert np.mean(within) > np.mean(across) + 0.1


def test_a_typing_error_changes_little(embedder):
    right, wrong, other = embedder.embed(["night train", "nigth trian", "salt soup"])
    assert right @ wrong > right @ other


def test_a_text_without_known_terms_is_zero(embedder):
    assert not embedder.embed(["ЖЖЖ"]).any()


def test_no_texts_give_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 4)


def test_a_restored_embedder_embeds_equally_to_the_bit(embedder, folder):
    new = [*CORPUS, "is the soup on the train"]
    assert np.array_equal(LSAEmbedder(dimensions=4, path=folder).embed(new), embedder.embed(new))


def test_a_restored_embedder_has_the_same_fingerprint(embedder, folder):
    assert LSAEmbedder(dimensions=4, path=folder).fingerprint == embedder.fingerprint


def test_a_restored_embedder_is_fitted(folder):
    assert LSAEmbedder(path=folder).fitted


def test_json_and_safetensors_are_all_that_is_saved(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["lsa.safetensors", "terms.json"]


def test_saving_a_restored_embedder_writes_the_same_files(folder, tmp_path):
    LSAEmbedder(path=folder).save(tmp_path)
    for name in ("terms.json", "lsa.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_fitting_twice_gives_one_fingerprint(embedder):
    again = LSAEmbedder(dimensions=4)
    again.fit(CORPUS)
    assert again.fingerprint == embedder.fingerprint


def test_the_fingerprint_changes_with_the_corpus(embedder):
    other = LSAEmbedder(dimensions=4)
    other.fit([*CORPUS, "a boat is no train"])
    assert other.fingerprint != embedder.fingerprint


def test_the_fingerprint_changes_with_the_weights_of_the_same_terms(embedder):
    other = LSAEmbedder(dimensions=4)
    other.fit([*CORPUS, CORPUS[0]])
    assert other.fingerprint != embedder.fingerprint


def test_the_fingerprint_changes_with_the_settings():
    assert LSAEmbedder(dimensions=4).fingerprint != LSAEmbedder(dimensions=5).fingerprint


def test_the_fingerprint_changes_with_fitting(embedder):
    assert LSAEmbedder(dimensions=4).fingerprint != embedder.fingerprint


def test_embedding_before_fitting_says_what_to_do():
    with pytest.raises(ClusterLLMError, match=r"'lsa' learns from the corpus: call fit\(texts\) before embed"):
        LSAEmbedder().embed(CORPUS)


def test_saving_before_fitting_is_refused(tmp_path):
    with pytest.raises(ClusterLLMError, match="not fitted"):
        LSAEmbedder().save(tmp_path)


@pytest.mark.parametrize("dimensions", [0, -3])
def test_a_size_below_one_is_refused(dimensions):
    with pytest.raises(ClusterLLMError, match=f"dimensions must be at least 1, not {dimensions}"):
        LSAEmbedder(dimensions=dimensions)


def test_texts_without_terms_are_refused():
    with pytest.raises(ClusterLLMError, match="the texts have no terms"):
        LSAEmbedder().fit([" ", "\n"])


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="not a saved 'lsa' embedder"):
        LSAEmbedder(path=tmp_path)


def test_a_damaged_folder_is_refused(folder, tmp_path):
    (tmp_path / "terms.json").write_bytes((folder / "terms.json").read_bytes())
    (tmp_path / "lsa.safetensors").write_bytes((folder / "lsa.safetensors").read_bytes()[:50])
    with pytest.raises(ArtifactError, match="not a saved 'lsa' embedder"):
        LSAEmbedder(path=tmp_path)


def test_chinese_texts_about_one_thing_are_nearer_than_others():
    embedder = LSAEmbedder()
    embedder.fit(["火车晚点了", "我的火车取消了", "这碗汤太咸", "汤里要加盐"])
    train, late, soup, _ = embedder.embed(["火车晚点了", "我的火车取消了", "这碗汤太咸", "汤里要加盐"])
    assert train @ late > train @ soup


def test_many_chinese_texts_that_share_no_word_are_embedded():
    # A sentence without spaces is one word, and each stands in one text only.
    who, does, what = ["我", "你", "他", "她", "谁"] * 2, "买卖看吃找洗拿送想要", "茶书鱼花米面车船灯伞"
    texts = [f"{a}{n}{b}{c}" for (n, a), b, c in product(enumerate(who), does, what)]
    embedder = LSAEmbedder(dimensions=16)
    embedder.fit(texts)
    assert len(texts) == 1000
    assert np.linalg.norm(embedder.embed(texts), axis=1).min() > 0.9


def test_texts_of_signs_alone_are_embedded():
    embedder = LSAEmbedder()
    embedder.fit(["☂☂☀", "☂☀☀", "♫♫♪"])
    assert embedder.embed(["☂☂☀"]).any()
