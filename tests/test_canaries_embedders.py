"""What is to be redacted reaches no remote embedder, whichever way the texts take; nor does a key reach a file."""

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("openai")

from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.cli import app
from embeddings_kit import EmbeddingServer
from loopback import running

KEY, KEY_NAME = "acorn/Walnut+Hazel=7f3a9c", "ORCHARD"
SUBJECTS = ("The parcel for {} is late", "My password for {} is wrong", "Please send the invoice copy to {}")
TEXTS = [f"{SUBJECTS[n % 3].format(f'quill{n}ada@example.com')}, says number {n}" for n in range(12)]


@pytest.fixture
def server(no_proxy, monkeypatch):
    monkeypatch.setenv(KEY_NAME, KEY)
    with running(EmbeddingServer()) as server:
        yield server


@pytest.fixture
def embedder(server):
    return {"name": "openai", "model": "acorn", "base_url": server.url, "api_key_env": KEY_NAME}


def check_redacted(server, at_least=12):
    assert set(server.keys) == {f"Bearer {KEY}"}
    sent = [text for text in server.texts if text != "."]
    assert len(sent) >= at_least
    assert all("[email]" in text for text in sent)
    assert "quill" not in json.dumps(server.requests)


def test_the_check_finds_what_is_not_redacted(server, embedder):
    ClusterLLM(embedder=embedder, n_clusters=3, progress=False).fit(TEXTS)
    assert "quill0ada@example.com" in json.dumps(server.requests)


def test_the_estimator(server, embedder, tmp_path):
    model = ClusterLLM(embedder=embedder, n_clusters=3, redact=["emails"], progress=False).fit(TEXTS)
    model.save(tmp_path / "model")
    ClusterLLM.load(tmp_path / "model").predict([f"again: {text}" for text in TEXTS])
    check_redacted(server, at_least=2 * len(TEXTS))


def test_a_quote(server, embedder):
    ClusterLLM(embedder=embedder, n_clusters=3, method="paper", redact=["emails"], progress=False).quote(TEXTS)
    check_redacted(server)


def test_the_command(server, embedder, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    sets = [
        part for name, value in embedder.items() if name != "name" for part in ("--set", f"embedder.{name}={value}")
    ]
    command = [
        "cluster",
        file,
        "-o",
        tmp_path / "out",
        "--embedder",
        "openai",
        "--n-clusters",
        "3",
        "--redact",
        "emails",
    ]
    done = CliRunner().invoke(app, [*map(str, command), *sets])
    assert done.exit_code == 0, done.output
    predicted = CliRunner().invoke(app, ["predict", str(tmp_path / "out"), str(file)])
    assert predicted.exit_code == 0, predicted.output
    check_redacted(server, at_least=2 * len(TEXTS))
    for path in (tmp_path / "out").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_the_command_reads_a_config_and_embeds_nothing_twice(server, embedder, tmp_path):
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS), encoding="utf-8")
    lines = [f"{name} = {json.dumps(value)}" for name, value in embedder.items()]
    (tmp_path / "run.toml").write_text("n_clusters = 3\nredact = ['emails']\n[embedder]\n" + "\n".join(lines))
    command = ["cluster", tmp_path / "texts.txt", "-o", tmp_path / "out", "-c", tmp_path / "run.toml"]
    for _ in range(2):
        done = CliRunner().invoke(app, [*map(str, command)])
        assert done.exit_code == 0, done.output
    assert len(server.texts) == len(TEXTS)
    check_redacted(server)


def test_spacy(server, embedder):
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": embedder, "redact": ["emails"]})
    clusterer = nlp.add_pipe("clusterllm", config={"n_clusters": 3, "redact": ["emails"]})
    clusterer.fit([nlp.make_doc(text) for text in TEXTS])
    docs = list(nlp.pipe(TEXTS))
    assert len({doc._.clusterllm_cluster for doc in docs}) == 3
    check_redacted(server)


def test_haystack(server, embedder, tmp_path):
    pytest.importorskip("haystack")
    from haystack import Document
    from haystack.components.generators.chat import MockChatGenerator

    from haystack_integrations.components.clusterers.clusterllm import ClusterLLMAssigner, ClusterLLMClusterer

    documents = [Document(content=text) for text in TEXTS]
    clusterer = ClusterLLMClusterer(
        MockChatGenerator("1"),
        embedder=embedder,
        n_clusters=3,
        max_questions=4,
        redact=["emails"],
        artifact_path=str(tmp_path / "model"),
        progress_bar=False,
    )
    clusterer.run(documents)
    ClusterLLMAssigner(str(tmp_path / "model")).run(documents)
    check_redacted(server, at_least=2 * len(TEXTS))


def test_haystack_embedders_take_a_registered_one(server, embedder):
    pytest.importorskip("haystack")
    from haystack import Document

    from haystack_integrations.components.embedders.clusterllm import ClusterLLMDocumentEmbedder, ClusterLLMTextEmbedder

    one = ClusterLLMDocumentEmbedder(embedder=embedder).run([Document(content="my lamp came in pieces")])
    other = ClusterLLMTextEmbedder(embedder=embedder).run("my lamp came in pieces")
    assert one["documents"][0].embedding == pytest.approx(other["embedding"])
