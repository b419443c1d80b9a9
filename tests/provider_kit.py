"""A chat server on the loopback that says what a test wants, and counts what it gets."""

import json
from contextlib import contextmanager

from loopback import Handler, Server, running
from openai_kit import completion


class ChatServer(Server):
    """Replies with ``reply(prompt)``: a text, or a status and a text."""

    def __init__(self, reply):
        super().__init__(_Chat)
        self.reply = reply
        self.prompts = []
        self.keys = []


class _Chat(Handler):
    def posted(self, sent):
        prompt = json.loads(sent)["messages"][0]["content"]
        self.server.prompts.append(prompt)
        self.server.keys.append(self.headers["Authorization"])
        self.send(*said(self.server.reply(prompt)))


def said(reply):
    """Return the body and the status of what a function of the prompt replies: a text, or a status and a text."""
    status, text = reply if isinstance(reply, tuple) else (200, reply)
    if isinstance(text, bytes):
        return text, status
    return completion(text, usage=(50, 1)) if status == 200 else {"error": {"message": text}}, status


def serving(reply):
    """Return a context in which a server runs; ``reply`` is a text or a function of the prompt."""
    return running(ChatServer(reply if callable(reply) else lambda prompt: reply))


@contextmanager
def serving_files(api):
    """Run a server that has ``api.post(path, body)`` and ``api.get(path)`` say its replies; give its address."""

    class Files(Handler):
        def posted(self, sent):
            self.send(api.post(self.path, sent))

        def fetched(self):
            self.send(api.get(self.path))

    with running(Server(Files)) as server:
        yield server.url
