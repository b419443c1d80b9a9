"""Models of other libraries that know a key and say back all that they are asked, with it."""

import os
from typing import Any

from haystack import component, default_from_dict, default_to_dict
from haystack.dataclasses import ChatMessage
from haystack.utils import Secret

from canary_kit import KEY_NAME, echo, echoed_error

PROMPTS = []  # all that any of them was asked


@component
class Repeating:
    """A chat generator of Haystack."""

    def __init__(self, api_key: Secret | None = None, fails: bool = False):
        self.api_key, self.fails = api_key or Secret.from_env_var(KEY_NAME), fails

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(self, api_key=self.api_key.to_dict(), fails=self.fails)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Repeating":
        if key := data["init_parameters"].get("api_key"):
            data["init_parameters"]["api_key"] = Secret.from_dict(key)
        return default_from_dict(cls, data)

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage]) -> dict[str, Any]:
        return {"replies": [ChatMessage.from_assistant(said(messages[0].text, self.fails))]}


def said(prompt, fails=False):
    PROMPTS.append(prompt)
    key = f"Bearer {os.environ[KEY_NAME]}"
    if fails:
        raise ValueError(echoed_error(prompt, key)[1])
    return echo(prompt, key)


def repeating(fails: bool = False):
    """Return a model of spacy-llm, as its registry makes one."""
    return lambda prompts: [[said(prompt, fails) for prompt in of_doc] for of_doc in prompts]
