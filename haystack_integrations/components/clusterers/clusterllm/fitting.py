"""One fit of :class:`clusterllm_plugins.ClusterLLM` inside a component: traced, and on an event loop where asked."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from haystack import logging
from haystack.tracing.tracer import tracer

from clusterllm_plugins.asking import Tally
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.protocols import Vectors, has_methods
from clusterllm_plugins.questions import OracleError, Usage
from haystack_integrations.components.clusterers.clusterllm.on_loop import OnLoop

if TYPE_CHECKING:
    from clusterllm_oracles.haystack import HaystackOracle
    from clusterllm_plugins import ClusterLLM

logger = logging.getLogger(__name__)

STOP_AGAIN = 0.1  # seconds


@dataclass
class Fit:
    """A fit that is about to be run.

    Args:
        model: The estimator, with all its settings.
        oracle: Asks a chat generator; ``None`` where another oracle is asked, or nobody.
        texts: Shape (n_texts,).
        embeddings: Shape (n_texts, dim), or ``None``.
        raise_on_failure: Whether an oracle that fails for good is an error; else the texts are clustered without it.
    """

    model: ClusterLLM
    oracle: HaystackOracle | None
    texts: Sequence[str]
    embeddings: Vectors | None
    raise_on_failure: bool
    _cancelled: bool = field(default=False, init=False)
    _on_loop: OnLoop | None = field(default=None, init=False)

    def run(self) -> ClusterLLM:
        """Fit, and return the fitted model.

        Raises:
            ClusterLLMError: If something given cannot be used.
            OracleError: If the oracle says that no question can succeed, and ``raise_on_failure`` is set.
        """
        with tracer.trace("clusterllm.fit", tags={"clusterllm.texts": len(self.texts)}) as span:
            try:
                self.model.fit(self.texts, embeddings=self.embeddings)
            except OracleError as error:
                if self.raise_on_failure or self._cancelled:
                    raise
                logger.warning("The texts are clustered without the oracle, since it failed: {error}", error=str(error))
                # What was answered before that is not lost.
                self.model.set_params(oracle=None).fit(self.texts, embeddings=self.embeddings, answers=error.asked)
                self.model.usage_ = error.usage
                self.model.report_ |= {"oracle_error": str(error), "questions": error.tally}
            span.set_tags({f"clusterllm.{name}": value for name, value in stats_of(self.model).items()})
        return self.model

    async def run_async(self) -> ClusterLLM:
        """Fit without blocking the event loop, on which a chat generator that has ``run_async`` is called.

        So is an oracle that has ``answer_async``; what it has opened there is closed at the end.

        Cancelled, it asks nothing more, waits for what is in flight, whose answers are kept, and then ends; cancelled
        again, it ends at once.
        """
        loop = asyncio.get_running_loop()
        if self.oracle is not None:
            self.oracle.loop = loop
        # A thread of its own: fits that held all of the loop's would leave none for the calls that they wait for.
        thread = ThreadPoolExecutor(1, thread_name_prefix="clusterllm-fit")
        work = loop.run_in_executor(thread, contextvars.copy_context().run, self._run_beside, loop)
        thread.shutdown(wait=False)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            self._cancelled = True
            # It is the cancellation that is raised, not what ends the thread.
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            while not work.done():
                self.model.stop()  # again, since the fit may not have begun
                await asyncio.wait({work}, timeout=STOP_AGAIN)
            raise
        finally:
            if self._on_loop is not None:
                await self._on_loop.close_async()

    def _run_beside(self, loop: asyncio.AbstractEventLoop) -> ClusterLLM:
        """Fit on this thread, and ask on ``loop`` where the oracle can be asked there."""
        spec = self.model.oracle
        if self.oracle is not None or spec is None:
            return self.run()
        oracle = Plugins().oracle(spec)
        if not has_methods(oracle, "answer_async"):
            return self.run()
        self._on_loop = OnLoop(oracle, loop)
        self.model.set_params(oracle=self._on_loop)
        try:
            return self.run()
        finally:
            if self.model.oracle is self._on_loop:
                self.model.set_params(oracle=spec)


def stats_of(model: ClusterLLM) -> dict[str, Any]:
    """Return what a fit did and took in plain Python types, flat but for ``guard``, what spoke for the answers."""
    return _stats(model.n_clusters_, model.report_, model.usage_)


def no_stats() -> dict[str, Any]:
    """Return the same where there was nothing to fit."""
    return _stats(0, {}, Usage())


def _stats(n_clusters: int, report: Mapping[str, Any], usage: Usage) -> dict[str, Any]:
    questions = report.get("questions") or {**Tally().to_dict(), "names": 0}
    return {
        "n_clusters": n_clusters,
        "method": report.get("method"),
        "refinement": report.get("refinement"),
        "oracle": report.get("oracle"),
        "oracle_error": report.get("oracle_error"),
        "guard": report.get("guard"),
        **{f"questions_{name}": count for name, count in questions.items()},
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "requests": usage.requests,
        "cost": usage.cost,
        "warnings": list(report.get("warnings", [])),
    }
