"""pytest fixtures for plugin authors, found by pytest when this package is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from clusterllm_plugins.plugins import Plugins


@pytest.fixture
def clusterllm_plugins_empty() -> Plugins:
    """Plugins that discover nothing: register what the test is about by hand."""
    from clusterllm_plugins.plugins import Plugins

    return Plugins(discover=False)
