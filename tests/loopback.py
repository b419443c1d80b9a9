"""What the servers on the loopback that stand in for providers share."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Listens at a free port; ``url`` is its address as an endpoint."""

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    """Reads what comes and sends JSON; a subclass writes ``posted``, and ``fetched`` where something is."""

    def do_POST(self):
        self.posted(self.rfile.read(int(self.headers["Content-Length"])))

    def do_GET(self):
        self.fetched()

    def send(self, content, status=200, headers=()):
        """Send bytes or a text as they are, anything else as JSON."""
        text = content if isinstance(content, bytes | str) else json.dumps(content)
        sent = text if isinstance(text, bytes) else text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(sent), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(sent)
        self.wfile.flush()

    def log_message(self, *_):
        pass


@contextmanager
def running(server):
    """Run a server as long as the context lasts."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
