"""A server on the loopback that speaks OpenAI's chat completions, and what it says."""

import json
import math

from loopback import Handler, Server


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


class Provider(Server):
    def __init__(self):
        super().__init__(_Chat)
        self.replies = []
        self.always = 200, completion(), {}
        self.requests = []


class _Chat(Handler):
    def posted(self, sent):
        body = json.loads(sent)
        self.server.requests.append({"path": self.path, "key": self.headers["Authorization"], **body})
        reply = self.server.replies.pop(0) if self.server.replies else self.server.always
        status, content, headers = reply(body) if callable(reply) else reply
        # A byte string is sent as it is; a text is JSON.
        self.send(content if isinstance(content, bytes) else json.dumps(content), status, headers)
