"""A server on the loopback that speaks OpenAI's chat completions, and what it says."""

import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text="1", usage=(52, 1), tokens=None, finish="stop", **message):
    """Return a chat completion; ``tokens`` are pairs of a token and the probabilities of all that are listed there."""
    reply = {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "acorn",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
        ],
    }
    if tokens:
        reply["choices"][0]["logprobs"] = {"content": [listed(*token) for token in tokens]}
    if usage:
        reply["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
    return reply


def listed(token, chances):
    """Return a token as the protocol lists it, with the probabilities of all that could stand there."""
    logprobs = {text: math.log(chance) if chance else -9999.0 for text, chance in chances.items()}
    return {
        "token": token,
        "logprob": logprobs[token],
        "top_logprobs": [{"token": text, "logprob": logprob} for text, logprob in logprobs.items()],
    }


def trouble(status, message="no luck", headers=(), **fields):
    return status, {"error": {"message": message, "type": "error", **fields}}, dict(headers)


class Provider(ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = []
        self.always = 200, completion(), {}
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
        reply = self.server.replies.pop(0) if self.server.replies else self.server.always
        status, content, headers = reply(body) if callable(reply) else reply
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(sent), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


@contextmanager
def running(monkeypatch):
    """Run a server as long as the context lasts, with no proxy before it."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with Provider() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
