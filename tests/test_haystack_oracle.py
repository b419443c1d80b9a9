"""The oracle ``haystack``: any ChatGenerator."""

import asyncio
import threading

import pytest
from haystack.components.generators.chat import MockChatGenerator, OpenAIChatGenerator
from haystack.utils import Secret

from asking_kit import QUESTIONS, ask, stored
from clusterllm_oracles.haystack import HaystackOracle
from clusterllm_plugins import Answer, ClusterLLMError, OracleError, Plugins, Usage
from clusterllm_plugins.testing import check_oracle, questions
from haystack_kit import Failing, Knowing, SyncOnly, first_choice


def test_keeps_the_contract():
    check_oracle(lambda: HaystackOracle(MockChatGenerator(response_fn=first_choice)))


def test_is_registered():
    assert isinstance(Plugins().oracle({"name": "haystack", "chat_generator": MockChatGenerator("1")}), HaystackOracle)


def test_a_serialized_generator_will_do():
    data = MockChatGenerator("2").to_dict()
    oracle = Plugins().oracle({"name": "haystack", "chat_generator": data})
    assert [answer.choice for answer in oracle.answer(questions()[:1])] == ["2"]
    assert data["type"] == "haystack.components.generators.chat.mock.MockChatGenerator"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gpt-4o", "oracle 'haystack': chat_generator must be a ChatGenerator, not str"),
        (3, "oracle 'haystack': chat_generator must be a ChatGenerator, not int"),
        (
            {"no": 1},
            "oracle 'haystack': chat_generator cannot be made (Missing 'type' in chat_generator serialization data)",
        ),
    ],
)
def test_what_is_no_generator(given, message):
    with pytest.raises(ClusterLLMError) as caught:
        HaystackOracle(given)
    assert str(caught.value) == message


def test_a_reply_is_parsed_and_its_tokens_are_counted():
    (answer,) = HaystackOracle(Knowing(replies="Choice 1.")).answer(questions()[:1])
    assert answer == Answer("1", None, Usage(10, 1, 1))


def test_other_names_of_tokens_are_read():
    oracle = HaystackOracle(MockChatGenerator("1", meta={"usage": {"input_tokens": 7, "output_tokens": 2}}))
    (answer,) = oracle.answer(questions()[:1])
    assert answer.usage == Usage(7, 2, 1)


def test_a_generator_that_counts_nothing_is_charged_its_worst_case():
    oracle = HaystackOracle(MockChatGenerator("1", meta={"usage": None}))
    question = questions()[0]
    (answer,) = oracle.answer([question])
    assert answer.usage == oracle.worst_case(question)
    assert answer.usage.output_tokens == 256


def test_prices_make_costs():
    oracle = HaystackOracle(Knowing(replies="1"), input_price=100_000, output_price=500_000)
    (answer,) = oracle.answer(questions()[:1])
    assert answer.usage.cost == pytest.approx(1.5)
    assert oracle.worst_case(questions()[0]).cost > 1.5


@pytest.mark.parametrize("kind", ["none", "empty"])
def test_no_reply_and_no_text_abstain(kind):
    (answer,) = HaystackOracle(Failing(kind=kind)).answer(questions()[:1])
    assert answer.choice is None
    assert answer.error.startswith("unreadable reply")


def test_an_error_abstains_and_is_not_stored(open_session, store):
    session = open_session(HaystackOracle(Failing(every=2)))
    answers = ask(session, QUESTIONS[:4])
    assert sum(answer.choice is None for answer in answers) == 4  # "1" is no answer to a pair, and two failed
    assert len(stored(store)) == 2
    assert [answer.error for answer in answers if "it broke" in answer.error] == [
        "oracle 'haystack' (Failing): ValueError: it broke"
    ] * 2


def test_an_error_that_may_pass_is_tried_again():
    with pytest.raises(OracleError) as caught:
        list(HaystackOracle(Failing(error="TimeoutError")).answer(questions()[:1]))
    assert caught.value.retryable
    assert not caught.value.fatal


def test_a_question_that_fails_ends_the_run_on_request(open_session):
    session = open_session(HaystackOracle(Failing(every=3), raise_on_failure=True))
    with pytest.raises(OracleError, match="it broke") as caught:
        ask(session, QUESTIONS[:9])
    assert caught.value.fatal
    assert len(session.transcript) == 2


def test_check_warms_the_generator_up():
    generator = Knowing(replies="1")
    HaystackOracle(generator).check()
    assert generator.warm_ups == 1


def test_a_missing_key_is_told_by_check(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(OracleError) as caught:
        HaystackOracle(OpenAIChatGenerator()).check()
    assert caught.value.fatal
    assert "OPENAI_API_KEY" in str(caught.value)


def test_nothing_is_warmed_up_at_construction():
    generator = Knowing(replies="1")
    HaystackOracle(generator)
    assert generator.warm_ups == 0


def test_calls_run_at_once(open_session):
    generator = Knowing(replies="yes", latency=0.05)
    ask(open_session(HaystackOracle(generator, concurrency=4)), QUESTIONS[:12])
    assert generator.most_at_once == 4


def test_on_a_loop_the_generators_coroutine_is_called(open_session):
    generator = Knowing(replies="yes")
    threads = set()
    answer = generator.answer
    generator.answer = lambda messages: threads.add(threading.current_thread()) or answer(messages)
    oracle = HaystackOracle(generator)
    session = open_session(oracle)

    async def main():
        oracle.loop = asyncio.get_running_loop()
        return await asyncio.to_thread(ask, session, QUESTIONS[:6])

    answers = asyncio.run(main())
    assert {answer.choice for answer in answers} == {"yes"}
    assert threads == {threading.main_thread()}


def test_on_a_loop_a_generator_without_one_is_called_on_a_thread(open_session):
    oracle = HaystackOracle(SyncOnly())
    session = open_session(oracle)

    async def main():
        oracle.loop = asyncio.get_running_loop()
        return await asyncio.to_thread(ask, session, QUESTIONS[:6])

    assert {answer.choice for answer in asyncio.run(main())} == {"yes"}


def test_a_loop_that_has_ended_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("clusterllm_oracles.loops.LOOP_SEEN_AFTER", 0.01)
    oracle = HaystackOracle(Knowing(replies="1"))
    oracle.loop = asyncio.new_event_loop()
    with pytest.raises(OracleError, match="the event loop has ended") as caught:
        list(oracle.answer(questions()[:1]))
    assert caught.value.fatal
    oracle.loop.run_until_complete(asyncio.sleep(0))
    oracle.loop.close()


def test_the_fingerprint_tells_models_and_settings_apart():
    key = Secret.from_env_var("SOME_KEY")
    made = [
        OpenAIChatGenerator(api_key=key),
        OpenAIChatGenerator(api_key=key, model="gpt-4o"),
        OpenAIChatGenerator(api_key=key, generation_kwargs={"temperature": 0}),
        OpenAIChatGenerator(api_key=key, api_base_url="http://localhost:1/v1"),
        MockChatGenerator("1"),
    ]
    assert len({HaystackOracle(generator).fingerprint for generator in made}) == 5


def test_the_fingerprint_tells_settings_apart_where_a_key_is_held_as_it_is():
    settings = [{}, {"generation_kwargs": {"temperature": 0}}, {"api_base_url": "http://localhost:1/v1"}]
    made = [OpenAIChatGenerator(api_key=Secret.from_token("sk-1234567890"), **given) for given in settings]
    assert len({HaystackOracle(generator).fingerprint for generator in made}) == 3
    other = OpenAIChatGenerator(api_key=Secret.from_token("sk-0987654321"), timeout=3)
    assert HaystackOracle(other).fingerprint == HaystackOracle(made[0]).fingerprint


def test_the_fingerprint_stays_where_no_answer_changes():
    one = OpenAIChatGenerator(api_key=Secret.from_env_var("SOME_KEY"), timeout=3, max_retries=0)
    other = OpenAIChatGenerator(api_key=Secret.from_env_var("OTHER_KEY"))
    assert HaystackOracle(one).fingerprint == HaystackOracle(other).fingerprint


def test_a_key_as_it_is_stands_in_no_fingerprint_and_no_error():
    generator = OpenAIChatGenerator(
        api_key=Secret.from_token("sk-1234567890abcdef"), api_base_url="http://127.0.0.1:9/v1"
    )
    oracle = HaystackOracle(generator)
    assert "1234567890abcdef" not in oracle.fingerprint
    generator.max_retries = 0
    generator.warm_up()
    with pytest.raises(OracleError) as caught:
        list(oracle.answer(questions()[:1]))
    assert "1234567890abcdef" not in str(caught.value)
    assert caught.value.retryable
