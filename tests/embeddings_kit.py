"""A server on the loopback that speaks OpenAI's embeddings, and counts what it is sent and what it bills."""

import base64
import hashlib
import json
import threading
import time

import numpy as np

from loopback import Handler, Server

SIZE = 4


def vector_of(text, size=SIZE):
    """Return a vector that depends on the text, of length 1."""
    digest = hashlib.sha256(text.encode()).digest()
    vector = np.array([1 + byte for byte in digest[:size]], dtype=np.float32)
    return vector / np.linalg.norm(vector)


def tokens_of(text):
    """Return what the server bills for a text: never more than a token a byte."""
    return max(1, len(text.encode()) // 3)


def embeddings(body, size=SIZE, usage=True):
    """Return the reply to a request."""
    encoded = body.get("encoding_format") == "base64"
    rows = [vector_of(text, body.get("dimensions") or size) for text in body["input"]]
    data = [
        {
            "object": "embedding",
            "index": place,
            "embedding": base64.b64encode(row.tobytes()).decode() if encoded else row.tolist(),
        }
        for place, row in enumerate(rows)
    ]
    reply = {"object": "list", "model": body["model"], "data": data}
    if usage:
        tokens = sum(map(tokens_of, body["input"]))
        reply["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return reply


class EmbeddingServer(Server):
    """Replies as ``replies`` say, one each, and then well; a reply is ``(status, content, headers)`` or a function.

    A function gets the body of the request and returns such a triple; ``None`` closes the connection.
    """

    request_queue_size = 64  # else some of many threads are turned away, and what they reserved stays reserved

    def __init__(self, latency=0.0):
        super().__init__(_Embeddings)
        self.latency = latency
        self.replies = []
        self.always = lambda body: (200, embeddings(body), {})
        self.requests = []
        self.keys = []
        self.billed = 0  # tokens of all replies of status 200
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()

    @property
    def texts(self):
        """All texts that were sent, in order."""
        return [text for body in self.requests for text in body["input"]]


class _Embeddings(Handler):
    def posted(self, sent):
        server = self.server
        body = json.loads(sent)
        with server.lock:
            server.requests.append(body)
            server.keys.append(self.headers["Authorization"])
            reply = server.replies.pop(0) if server.replies else server.always
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
        time.sleep(server.latency)
        reply = reply(body) if callable(reply) else reply
        with server.lock:
            server.in_flight -= 1
            if reply is not None and reply[0] == 200:
                server.billed += sum(map(tokens_of, body["input"]))
        if reply is None:
            self.close_connection = True
            return
        status, content, headers = reply
        self.send(content, status, headers)
