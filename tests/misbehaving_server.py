"""A chat server on the loopback that misbehaves by a seeded script, and counts what it gets.

What it does to a prompt depends on the seed, the prompt and how often it came, never on time or order: some replies
that fail in passing, then one that lasts. Every request is billed when it comes, also one that gets no reply.
"""

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

from loopback import Handler, Server, running

PASSING = ("429", "429 with Retry-After", "500", "503", "reset", "hang", "half a JSON")
LASTING = ("no choices", "empty", "refusal")
MOST_FAILURES = 4  # of a prompt, one after the other
RETRY_AFTER = 0.05  # seconds
INPUT_PRICE, OUTPUT_PRICE = 1.0, 2.0  # US dollars per million tokens


@dataclass
class Request:
    """What came, and what became of it."""

    model: str
    prompt: str
    kind: str  # "good", or how the server misbehaved
    arrived: float  # seconds of time.monotonic
    tokens: tuple[int, int]  # input, output
    answered: float | None = None  # when the whole of a lasting reply was sent


class MisbehavingServer(Server):
    """Answers prompts, ``bad`` of all replies excepted.

    Args:
        seed: Decides what happens to which prompt.
        bad: The share of replies that are not as they should be.
        latency: Seconds until a reply.
        hang: Seconds without a reply, after which the connection is closed.
        reply: Returns what a good reply to a prompt says; by default :func:`reply_to`.
    """

    block_on_close = False
    request_queue_size = 256

    def __init__(self, seed=0, bad=0.3, latency=0.0, hang=5.0, reply=None):
        super().__init__(_Chat)
        self.seed, self.bad, self.latency, self.hang = seed, bad, latency, hang
        self.reply = reply or reply_to
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._log = []
        self._came = Counter()

    def start_over(self, seed):
        """Forget all requests, and misbehave by another script."""
        with self._lock:
            self.seed, self._log = seed, []
            self._came.clear()

    def script(self, prompt):
        """Return the failures of a prompt in passing, in order, and its lasting reply."""
        chance = random.Random(f"{self.seed} {prompt}")
        failures = []
        while chance.random() < self.bad and len(failures) < MOST_FAILURES:
            kind = chance.choice(PASSING + LASTING)
            if kind in LASTING:
                return failures, kind
            failures.append(kind)
        return failures, "good"

    def came(self, model, prompt, most_output):
        """Count a request and bill it."""
        failures, lasting = self.script(prompt)
        tokens = len(prompt.encode()), random.Random(prompt).randint(1, most_output)
        with self._lock:
            turn = self._came[model, prompt]
            self._came[model, prompt] += 1
            kind = failures[turn] if turn < len(failures) else lasting
            request = Request(model, prompt, kind, time.monotonic(), tokens)
            self._log.append(request)
        return request

    @property
    def requests(self):
        """All that came so far, in order."""
        with self._lock:
            return list(self._log)

    @property
    def answered(self):
        """How often each prompt got the whole of its lasting reply."""
        return Counter(request.prompt for request in self.requests if request.answered)

    @property
    def tokens(self):
        """Input and output tokens of all requests."""
        return sum(sum(request.tokens) for request in self.requests)

    @property
    def cost(self):
        """US dollars of all requests."""
        return sum(r.tokens[0] * INPUT_PRICE + r.tokens[1] * OUTPUT_PRICE for r in self.requests) / 1e6


class _Chat(Handler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # one packet a reply

    def posted(self, sent):
        body = json.loads(sent)
        server = self.server
        request = server.came(body["model"], body["messages"][0]["content"], body["max_tokens"])
        kind = request.kind
        server.closing.wait(server.hang if kind == "hang" else server.latency)
        if kind in ("reset", "hang"):
            if kind == "reset":  # close() sends RST instead of FIN
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif kind in ("429", "429 with Retry-After", "500"):
            headers = {"Retry-After": RETRY_AFTER} if "Retry" in kind else {}
            self.send({"error": {"message": "slow down"}}, int(kind[:3]), headers)
        elif kind == "503":
            self.send("<html><h1>Service Unavailable</h1></html>", 503, {"Content-Type": "text/html"})
        elif kind == "half a JSON":
            whole = json.dumps(_completion(request, server.reply))
            self.send(whole[: len(whole) // 2])
        else:
            self.send(_completion(request, server.reply))
            request.answered = time.monotonic()


def reply_to(prompt):
    """Return what a good reply to a prompt says; the same prompt gets the same one."""
    if prompt.startswith("Give a group"):
        return f"Acorn {hashlib.sha256(prompt.encode()).hexdigest()[:6]}"
    choices = ("yes", "no") if prompt.startswith("Decide whether") else ("1", "2")
    return choices[hashlib.sha256(prompt.encode()).digest()[0] % 2]


def _completion(request, reply):
    texts = {"empty": "", "refusal": "I'm sorry, but I cannot help with that."}
    message = {"role": "assistant", "content": texts.get(request.kind) if request.kind in texts else None}
    if request.kind not in texts:
        message["content"] = reply(request.prompt)
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    given, taken = request.tokens
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": request.model,
        "choices": [] if request.kind == "no choices" else choices,
        "usage": {"prompt_tokens": given, "completion_tokens": taken, "total_tokens": given + taken},
    }


@contextmanager
def misbehaving(**settings):
    """Run a server as long as the context lasts."""
    with running(MisbehavingServer(**settings)) as server:
        try:
            yield server
        finally:
            server.closing.set()
