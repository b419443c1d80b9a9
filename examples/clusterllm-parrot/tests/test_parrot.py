import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from clusterllm_parrot.embedder import LetterEmbedder
from clusterllm_parrot.oracle import ParrotOracle
from clusterllm_plugins import OracleError, Plugins
from clusterllm_plugins.testing import check_embedder, check_oracle, check_registered, questions


class Parrot(BaseHTTPRequestHandler):
    """The made-up provider: says "Choice 1" or "yes" to everything, unless told to fail."""

    status = 200

    def do_POST(self):
        prompt = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["say"]
        said = "yes" if "yes or no" in prompt else "Choice 1"
        reply = {"said": said, "heard": len(prompt.split()), "spoken": 1}
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Parrot)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_oracle_keeps_the_contract(url):
    check_oracle(
        lambda: ParrotOracle(url),
        changed=[lambda: ParrotOracle(f"{url}/large")],
        broken=[lambda: ParrotOracle("http://127.0.0.1:9")],  # nobody listens there
    )


def test_embedder_keeps_the_contract():
    check_embedder(LetterEmbedder)


@pytest.mark.parametrize(("kind", "name"), [("oracle", "parrot"), ("embedder", "letters")])
def test_both_are_registered(kind, name):
    check_registered(kind, name)


def test_both_are_found_by_name(url):
    plugins = Plugins()
    assert isinstance(plugins.oracle({"name": "parrot", "url": url}), ParrotOracle)
    assert isinstance(plugins.embedder("letters"), LetterEmbedder)


@pytest.mark.parametrize(("status", "fatal", "retryable"), [(401, True, False), (503, False, True)])
def test_trouble_is_told_apart(url, monkeypatch, status, fatal, retryable):
    monkeypatch.setattr(Parrot, "status", status)
    with pytest.raises(OracleError) as caught:
        list(ParrotOracle(url).answer(questions()[:1]))
    assert (caught.value.fatal, caught.value.retryable) == (fatal, retryable)
