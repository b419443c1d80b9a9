"""The errors a user can cause and mend: each is one line that says what, where and what to do.

The command line prints them without a traceback and ends with code 2.
"""

from __future__ import annotations


class ClusterLLMError(ValueError):
    """Something the user gave cannot be used as it is."""


class PluginError(ClusterLLMError):
    """A name, a setting or a plugin that cannot be resolved."""


class MissingExtraError(ClusterLLMError):
    """An optional dependency is not installed.

    Args:
        what: The component that needs it, for example ``"oracle 'openai'"``.
        extra: The name of the extra that brings it.
    """

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra: pip install 'clusterllm-plugins[{extra}]'")


class DataError(ClusterLLMError):
    """Texts, vectors or recorded answers that cannot be used."""


class ArtifactError(ClusterLLMError):
    """A folder that is not a fitted model, or a damaged one."""


class UnfittedError(ClusterLLMError):
    """A component that must learn from a corpus before it is used."""


class ClusterLLMWarning(UserWarning):
    """Something unusual in the input that does not stop the work."""
