"""Hard caps of asking: on distinct questions, and by an oracle's worst cases on tokens and money."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from clusterllm_plugins.caps import Caps
from clusterllm_plugins.describing import Asked, states_worst_case, worst_case
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.protocols import Oracle, has_methods
from clusterllm_plugins.questions import NOT_ASKED, Usage
from clusterllm_plugins.stopping import Stop


@dataclass
class QuestionCap:
    """Counts distinct questions up to a limit.

    Attributes:
        limit: The most.
        in_rounds: Whether it is asked about round by round, so that progress counts up to the limit.
    """

    limit: int
    in_rounds: bool = False
    _admitted: set[str] = field(default_factory=set)

    @property
    def admitted(self) -> int:
        """How many distinct questions were admitted."""
        return len(self._admitted)

    @property
    def left(self) -> int:
        """How many more distinct questions may be asked."""
        return self.limit - len(self._admitted)

    def admit(self, key: str) -> bool:
        """Return whether the question of this key may be asked; one that was admitted before always may."""
        if key not in self._admitted and len(self._admitted) >= self.limit:
            return False
        self._admitted.add(key)
        return True


class Budget:
    """Caps on tokens and money, kept also when many threads ask at once.

    Args:
        oracle: Whose ``worst_case`` is reserved.
        price: Returns the US dollars of a usage, or None.
        max_tokens: The cap on tokens, or None.
        max_cost: The cap in US dollars, or None.

    Attributes:
        capped: Whether there is a cap on tokens or money.

    Raises:
        ClusterLLMError: If a cap is set that cannot be kept.
    """

    def __init__(
        self,
        oracle: Oracle,
        price: Callable[[Usage], float | None],
        max_tokens: int | None,
        max_cost: float | None,
    ) -> None:
        if (max_tokens is not None or max_cost is not None) and not has_methods(oracle, "worst_case"):
            raise ClusterLLMError(
                "max_tokens and max_cost need an oracle that states a worst case (a method worst_case); "
                f"{type(oracle).__name__} does not: cap max_questions instead"
            )
        self._oracle = oracle
        self._price = price
        self._max_cost = max_cost
        self._caps = Caps(max_tokens, max_cost)
        self.capped = self._caps.capped

    @property
    def usage(self) -> Usage:
        """What all answers took."""
        return self._caps.usage

    def can_bound(self, asked: Asked) -> bool:
        """Return whether what ``asked`` may take is known as far as the caps need it."""
        if not self.capped:
            return True
        return states_worst_case(self._oracle, asked) and (self._max_cost is None or self._stated(asked)[1] is not None)

    @contextmanager
    def reserved(self, questions: Sequence[Asked], stop: Stop) -> Iterator[tuple[int, str]]:
        """Reserve the worst case of asking ``questions`` once, one after the other while the caps allow it.

        The attempt is made inside.

        Args:
            questions: What is to be asked.
            stop: Ends waiting for what is in flight.

        Yields:
            For how many there is room, and why not for the next one.
        """
        worst = [self._worst(question) for question in questions]
        with self._caps.reserved(worst, stop) as (room, refused):
            yield room, f"{NOT_ASKED}: {refused}" if refused else ""

    def settle(self, question: Asked, usage: Usage) -> None:
        """Count what an answer took, in place of what was reserved for it."""
        self._caps.settle(self._worst(question), usage)

    def _worst(self, question: Asked) -> Usage:
        """Return what is reserved; nothing where there is no cap, as the oracle need not state it then."""
        if not self.capped:
            return Usage()
        usage, cost = self._stated(question)
        if cost is None and self._max_cost is not None:
            raise ClusterLLMError(
                "max_cost needs prices, and this oracle's are unknown: "
                "give them as settings of the oracle, or cap max_questions or max_tokens instead"
            )
        return replace(usage, cost=cost)

    def _stated(self, question: Asked) -> tuple[Usage, float | None]:
        usage = worst_case(self._oracle, question)
        return usage, self._price(usage) if usage.cost is None else usage.cost
