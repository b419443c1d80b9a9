"""A stand-in for a language model, so that the examples run without a key: it counts common words.

Its answers say nothing of what a language model would answer. It can be called (``reply``), or asked over HTTP as
OpenAI is (``serve``), on a port of this machine only.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from haystack.dataclasses import ChatMessage

QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')  # the texts of a question are JSON strings
ENOUGH = 2  # words in common that make two texts "the same category"


def stems(text: str) -> set[str]:
    """Return the beginnings of a text's longer words: a crude way to find "returned" in "returning"."""
    return {word[:5] for word in re.findall(r"\w{4,}", text.lower())}


def reply(messages: list[ChatMessage]) -> str:
    """Answer a question about texts: yes or no, or the number of the candidate with more words in common."""
    prompt = messages[-1].text or ""
    texts = [json.loads(quoted) for quoted in QUOTED.findall(prompt)]
    if "yes or no" in prompt:
        left, right = texts[-2:]  # demonstrations stand before
        return "yes" if len(stems(left) & stems(right)) >= ENOUGH else "no"
    query, *candidates = texts
    common = [len(stems(query) & stems(candidate)) for candidate in candidates]
    best = max(common)
    return str(common.index(best) + 1) if common.count(best) == 1 else "none of them"


class StandIn(ThreadingHTTPServer):
    """Speaks the part of OpenAI's chat completions that a chat generator needs.

    Attributes:
        url: What a client takes as its base URL.
        prompts: Every question asked so far.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.prompts: list[str] = []


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: StandIn

    def do_POST(self) -> None:
        """Answer a chat completion; the "tokens" it reports are words."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self.server.prompts.append(prompt)
        text = reply([ChatMessage.from_user(prompt)])
        read, written = len(prompt.split()), len(text.split())
        message = {"role": "assistant", "content": text}
        completion = {
            "id": f"stand-in-{len(self.server.prompts)}",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
        }
        sent = json.dumps(completion).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing: an example's output is its own."""


@contextmanager
def serve() -> Iterator[StandIn]:
    """Run the server while the block lasts."""
    with StandIn() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
