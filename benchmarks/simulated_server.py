"""An endpoint on the loopback that speaks OpenAI's chat completions and answers from labels: a *simulated* model.

    python3 benchmarks/simulated_server.py --set clinc --delay 0.2

It prints its port and serves until its standard input is closed. The answers are those of the simulated oracle
(profile "measured"), each after a set delay, however many requests wait. A process of its own, so that it takes no
time from who asks.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from common import DATA, DataSet, load

from clusterllm_oracles.simulated import SimulatedOracle
from clusterllm_plugins.questions import Question, pair_question, triplet_question

SHOWN = re.compile(r'^(?:Query: |\d+\. |Text [AB]: )(".*")$', re.MULTILINE)


def questions_of(data: DataSet, prompt: str, places: dict[str, int]) -> Question:
    """Return the question that a prompt shows."""
    shown = [places[json.loads(quoted)] for quoted in SHOWN.findall(prompt)]
    return (pair_question if len(shown) == 2 else triplet_question)(data.texts, *shown)


def serve(data: DataSet, delay: float) -> None:
    """Print the port and serve until the standard input ends."""
    oracle = SimulatedOracle([str(label) for label in data.labels])
    oracle.prepare(data.texts, data.vectors)
    places = {text: place for place, text in reversed(list(enumerate(data.texts)))}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_POST(self) -> None:
            start = time.perf_counter()
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = questions_of(data, body["messages"][-1]["content"], places)
            (answer,) = oracle.answer([question])
            message = {"role": "assistant", "content": answer.choice}
            reply = json.dumps(
                {
                    "id": "simulated",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "simulated",
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 0, "completion_tokens": 1, "total_tokens": 1},
                }
            ).encode()
            time.sleep(max(0.0, delay - (time.perf_counter() - start)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


@contextmanager
def simulated_server(name: str, folder: Path, delay: float) -> Iterator[str]:
    """Run the server for a data set and yield its base URL."""
    command = [sys.executable, __file__, "--set", name, "--data", str(folder), "--delay", str(delay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.stdin.close()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--set", required=True, help="name of a data set")
    parser.add_argument("--delay", type=float, default=0.2, help="seconds to each answer")
    arguments = parser.parse_args()
    serve(load(arguments.set, arguments.data), arguments.delay)


if __name__ == "__main__":
    main()
