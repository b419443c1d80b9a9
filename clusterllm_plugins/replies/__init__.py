"""How a language model's reply is read: to a question by :func:`parse`, where a name is wanted by :func:`parse_name`.

In: what the model wrote. Out: a choice, a name, or None. docs/replies.md shows what is read as what.
"""

from clusterllm_plugins.replies.choice import MAX_REPLY_CHARACTERS, parse
from clusterllm_plugins.replies.name import MAX_NAME_CHARACTERS, MAX_NAME_WORDS, parse_name

__all__ = ["MAX_NAME_CHARACTERS", "MAX_NAME_WORDS", "MAX_REPLY_CHARACTERS", "parse", "parse_name"]
