"""The files of OpenAI's Batch API, and what fills them, that the tests of the oracle ``batch`` share."""

import json
import random

from openai_kit import completion


def asked(folder, number=1):
    lines = (folder / f"requests-{number:04}.jsonl").read_bytes().decode("ascii").splitlines()
    return [json.loads(line) for line in lines]


def answered(id_, text="1", usage=(52, 1), tokens=None):
    return {
        "id": "batch_req_1",
        "custom_id": id_,
        "response": {"status_code": 200, "request_id": "r1", "body": completion(text, usage, tokens)},
        "error": None,
    }


def denied(id_, status, message="no luck"):
    body = {"error": {"message": message, "type": "error"}}
    return {"id": "batch_req_2", "custom_id": id_, "response": {"status_code": status, "body": body}, "error": None}


def save(folder, records, number=1, kind="results"):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / f"{kind}-{number:04}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def run_batches(folder, reply, seed=0):
    """Do what the Batch API does: answer each requests file that has no results yet, in an order of its own."""
    for path in folder.glob("requests-*.jsonl"):
        number = int(path.stem[-4:])
        if (folder / f"results-{number:04}.jsonl").exists():
            continue
        records = [answered(line["custom_id"], *reply(line["body"])) for line in asked(folder, number)]
        random.Random(seed).shuffle(records)
        save(folder, records, number)
