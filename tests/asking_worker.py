"""A process of its own that asks a server, to be killed: ``python asking_worker.py SETTINGS``, printing its answers.

SETTINGS is JSON: ``url``, ``store``, ``questions`` (how many), ``concurrency`` and ``timeout``.
"""

import json
import sys

from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_plugins.asking import Session
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.questions import pair_question
from clusterllm_plugins.store import AnswerStore


def questions_of(count):
    """Return as many distinct questions."""
    texts = [f"The kettle number {number} drips" for number in range(count + 1)]
    return [pair_question(texts, number, number + 1) for number in range(count)]


def main(url, store, questions, concurrency, timeout):
    oracle = OpenAIOracle("acorn", url, None, concurrency=concurrency, timeout=timeout)
    with AnswerStore(store) as opened:
        session = Session(oracle, plugins=Plugins(discover=False), store=opened)
        answers = session.ask(questions_of(questions), QuestionCap(questions))
    print(json.dumps([[answer.choice, answer.error] for answer in answers]))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
