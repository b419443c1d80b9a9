"""Conformance checks that a plugin runs in its own tests.

Each raises ``AssertionError`` with one line that says what a component does not do::

    from clusterllm_plugins.testing import check_oracle, check_registered

    def test_oracle(server):
        check_oracle(
            lambda: AcmeOracle(url=server.url),
            changed=[lambda: AcmeOracle(url=server.url, model="large")],
            broken=[lambda: AcmeOracle(url="http://127.0.0.1:9")],
        )

    def test_it_is_registered():
        check_registered("oracle", "acme")
"""

from __future__ import annotations

from clusterllm_plugins.testing.embedders import check_embedder
from clusterllm_plugins.testing.oracles import check_oracle
from clusterllm_plugins.testing.registered import check_registered
from clusterllm_plugins.testing.samples import TEXTS, odd_questions, questions

__all__ = ["TEXTS", "check_embedder", "check_oracle", "check_registered", "odd_questions", "questions"]
