"""An oracle for a provider that takes a prompt by HTTP and replies with a text."""

import json
from collections.abc import Sequence
from urllib.error import URLError
from urllib.request import Request, urlopen

from clusterllm_plugins import Completion, OracleError, PromptedOracle, Usage
from clusterllm_plugins.prompts import PROMPT_VERSION


class ParrotOracle(PromptedOracle):
    """Asks Parrot at ``url``."""

    def __init__(self, url: str) -> None:
        self.url, self.fingerprint = url, f"parrot:{url}:{PROMPT_VERSION}"

    def complete(self, prompt: str, choices: Sequence[str]) -> Completion:
        """Return Parrot's reply."""
        request = Request(self.url, json.dumps({"say": prompt}).encode(), {"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=30) as response:
                reply = json.load(response)
        except URLError as error:  # an HTTPError, which has a code, is one
            status = getattr(error, "code", 503)
            raise OracleError(f"parrot: {error}", retryable=status in (429, 503), fatal=status == 401) from error
        return Completion(reply["said"], Usage(reply["heard"], reply["spoken"], 1))
