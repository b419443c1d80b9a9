"""Paid calls by the rules of asking, with calls that do what a test wants; test_openai_embedder.py has a server."""

import random

import pytest

from clusterllm_plugins.calling import Caller, Limits
from clusterllm_plugins.caps import Caps
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.pacing import Pacer, backoff
from clusterllm_plugins.questions import OracleError, Usage
from clusterllm_plugins.stopping import Stop

ITEMS = [[number, number + 1] for number in range(0, 20, 2)]


class Calls:
    """Takes one token an item, where ten are reserved; fails as it is told to."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.made = []

    def __call__(self, items):
        self.made.append(list(items))
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return Usage(len(items), 0, 1)

    @property
    def items(self):
        return sorted(item for items in self.made for item in items)


def make(calls, waits=None, **limits):
    waits = [] if waits is None else waits
    caller = Caller("the kettle", Limits(**limits), lambda item: Usage(10), sleep=waits.append)
    caller.make(ITEMS, calls)
    return caller


def passing(**more):
    return OracleError("busy", retryable=True, **more)


def test_each_item_is_sent_once():
    calls = Calls()
    assert make(calls).usage == Usage(20, 0, 10)
    assert calls.items == list(range(20))


def test_a_cap_sends_a_part_of_a_batch():
    calls = Calls()
    with pytest.raises(
        ClusterLLMError, match="the kettle: the cap of 15 tokens is reached; raise max_tokens"
    ) as raised:
        make(calls, concurrency=1, max_tokens=15)
    assert raised.value.__cause__ is None
    # Ten are reserved for each: of the first batch there is room for one, and so on until five are taken.
    assert calls.made == [[0], [1], [2], [3], [4], [5]]


def test_an_unexpected_error_is_one_line_and_stops_the_rest():
    calls = Calls(KeyError("a\nb"))
    with pytest.raises(ClusterLLMError, match=r"^the kettle: KeyError: 'a\\nb'$"):
        make(calls, concurrency=1)
    assert len(calls.made) == 1


def test_without_retries_the_first_failure_ends_it():
    calls = Calls(passing())
    with pytest.raises(ClusterLLMError, match="busy"):
        make(calls, concurrency=1, max_retries=0)
    assert len(calls.made) == 1


def test_what_the_provider_asks_for_is_waited():
    waits = []
    make(Calls(passing(retry_after=3.5)), waits, concurrency=1)
    assert waits == [3.5]


def test_attempts_while_every_call_fails_do_not_use_up_retries():
    waits = []
    calls = Calls(*[passing()] * 12)
    make(calls, waits, concurrency=1, max_retries=8)
    assert waits[7:] == [1, 2, 4, 8, 16]
    assert len(calls.made) == 12 + 10


@pytest.mark.parametrize(
    "limits",
    [{"concurrency": 0}, {"max_retries": -1}, {"max_cost": -1.0}, {"requests_per_minute": 0}, {"patience": -1}],
)
def test_limits_without_meaning_are_an_error(limits):
    with pytest.raises(ClusterLLMError, match=f"{next(iter(limits))} must be"):
        Limits(**limits)


def test_what_was_not_taken_is_given_back_to_the_rate():
    pacer = Pacer(None, 60, clock=lambda: 0.0)
    pacer.reserve(1, 30)
    pacer.settle(1, 30, 10)
    assert pacer.reserve(1, 1) == 10


def test_giving_back_tokens_gives_back_no_requests():
    pacer = Pacer(6, 60, clock=lambda: 0.0)
    pacer.reserve(1, 30)
    pacer.settle(1, 30, 0)
    assert pacer.reserve(1, 0) == 10


def test_waits_double_up_to_a_minute():
    jitter = random.Random(0)
    most = [max(backoff(attempt, None, jitter) for _ in range(500)) for attempt in (0, 3, 20)]
    assert most == pytest.approx([0.5, 4, 60], rel=0.05)


def test_caps_without_a_limit_have_room_for_all():
    with Caps(None, None).reserved([Usage(10**9)] * 3, Stop()) as (room, refused):
        assert (room, refused) == (3, "")
