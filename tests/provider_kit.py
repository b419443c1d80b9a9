"""A chat server on the loopback that says what a test wants, and counts what it gets."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer(ThreadingHTTPServer):
    """Replies with ``reply(prompt)``: a text, or a status and a text."""

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.reply = reply
        self.prompts = []
        self.keys = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        pass


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        self.server.prompts.append(prompt)
        self.server.keys.append(self.headers["Authorization"])
        reply = self.server.reply(prompt)
        status, text = reply if isinstance(reply, tuple) else (200, reply)
        sent = json.dumps(_completion(text) if status == 200 else {"error": {"message": text}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


def _completion(text):
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "acorn",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 1, "total_tokens": 51},
    }


@contextmanager
def serving(reply):
    """Run a server as long as the context lasts; ``reply`` is a text or a function of the prompt."""
    with ChatServer(reply if callable(reply) else lambda prompt: reply) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serving_files(api):
    """Run a server that has ``api.post(path, body)`` and ``api.get(path)`` say its replies; give its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send(api.post(self.path, self.rfile.read(int(self.headers["Content-Length"]))))

        def do_GET(self):
            self.send(api.get(self.path))

        def send(self, reply):
            sent = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()
