"""What real endpoints do beside answering: refuse parameters and texts, think, fail with status 200."""

import threading
import warnings

import pytest

from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_oracles.refusals import advice_on
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.questions import OracleError, Usage, pair_question, triplet_question
from openai_kit import completion, trouble

TEXTS = [f"note {number}" for number in range(40)]
TRIPLET = triplet_question(TEXTS, 0, 1, 2)
PAIRS = [pair_question(TEXTS, number, number + 1) for number in range(30)]


@pytest.fixture
def make(provider):
    return lambda **settings: OpenAIOracle("acorn", provider.url, None, **settings)


def failure(oracle):
    with pytest.raises(OracleError) as caught:
        list(oracle.answer([TRIPLET]))
    return caught.value


# Parameters that change no answer.

REFUSALS = [
    trouble(400, "Unsupported parameter: 'logprobs' is not supported with this model.", param="logprobs"),
    trouble(400, "`logprobs` is not supported with this model"),
    trouble(400, "Logprobs is not enabled for models/acorn"),
    trouble(400, "Requested sample logprobs of 5, which is greater than max allowed: 1", param="top_logprobs"),
    (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "top_logprobs"], "msg": "no"}]}, {}),
    (422, {"object": "error", "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "logprobs"]}]}}, {}),
    (500, b"logprobs not implemented", {"Content-Type": "text/plain"}),
    (200, {"error": {"message": "logprobs are not supported", "code": 400}}, {}),
]


def refuse(refusal):
    return lambda body: refusal if "logprobs" in body else (200, completion("yes"), {})


@pytest.mark.parametrize("refusal", REFUSALS)
def test_an_endpoint_without_logprobs_is_asked_without(provider, make, open_session, refusal):
    provider.always = refuse(refusal)
    oracle = make(concurrency=1)
    with pytest.warns(ClusterLLMWarning, match="the endpoint refuses log-probabilities"):
        answers = open_session(oracle).ask(PAIRS, QuestionCap(100))
    assert {(answer.choice, answer.confidence) for answer in answers} == {("yes", None)}
    assert len(provider.requests) == len(PAIRS) + 1


def test_threads_that_are_refused_at_once_warn_once(provider, make, open_session):
    together = threading.Barrier(8)

    def refuse_together(body):
        if "logprobs" not in body:
            return 200, completion("yes"), {}
        together.wait(10)
        return REFUSALS[0]

    provider.always = refuse_together
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = open_session(make(concurrency=8)).ask(PAIRS, QuestionCap(100))
    assert {answer.choice for answer in answers} == {"yes"}
    assert len(provider.requests) == len(PAIRS) + 8
    assert len([warning for warning in caught if warning.category is ClusterLLMWarning]) == 1


@pytest.mark.filterwarnings("ignore::clusterllm_plugins.ClusterLLMWarning")
def test_it_is_the_session_that_asks_again_and_at_once(provider, make):
    provider.always = refuse(REFUSALS[0])
    error = failure(make())
    assert (error.retryable, error.retry_after, error.fatal) == (True, 0.0, False)
    assert len(provider.requests) == 1


def test_an_error_about_logprobs_that_were_not_asked_for_is_an_error_like_any_other(provider, make):
    provider.always = REFUSALS[0]
    assert not failure(make(logprobs=False)).retryable


# Parameters on which the answers depend.


@pytest.mark.parametrize(
    ("settings", "refusal", "advice"),
    [
        (
            {},
            trouble(400, "Unsupported value: 'temperature' does not support 0 with this model.", param="temperature"),
            'the endpoint refuses temperature; set temperature to null (in a TOML file "")',
        ),
        (
            {},
            trouble(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
            ),
            "the endpoint refuses max_tokens; set limit = 'max_completion_tokens'",
        ),
        (
            {"limit": "max_completion_tokens"},
            (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"], "msg": ""}]}, {}),
            "the endpoint refuses max_completion_tokens; set limit = 'max_tokens'",
        ),
        (
            {"constrain": "schema"},
            trouble(400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model"),
            "the endpoint refuses response_format; set constrain to another one",
        ),
        (
            {"constrain": "grammar"},
            trouble(400, "Unrecognized request argument supplied: grammar"),
            "the endpoint refuses grammar; set constrain to another one",
        ),
        (
            {"constrain": "choice"},
            (200, {"error": {"message": "unknown field structured_outputs", "code": "400"}}, {}),
            "the endpoint refuses structured_outputs; set constrain to another one",
        ),
    ],
)
def test_a_refused_parameter_stops_the_run_with_what_to_set(provider, make, open_session, settings, refusal, advice):
    provider.always = refusal
    with pytest.raises(OracleError) as caught:
        open_session(make(concurrency=1, **settings)).ask(PAIRS, QuestionCap(100))
    assert caught.value.fatal
    assert str(caught.value).startswith(f"oracle 'openai' (acorn at {provider.url}): {advice}")
    assert "\n" not in str(caught.value)
    assert len(provider.requests) == 1


def test_what_was_accepted_once_is_not_what_is_refused(provider, make, open_session):
    provider.replies = [
        (200, completion("yes"), {}),
        trouble(400, "Unsupported value: 'temperature' does not support 0 with this model."),
    ]
    provider.always = 200, completion("no"), {}
    answers = open_session(make(concurrency=1)).ask(PAIRS[:3], QuestionCap(100))
    assert [answer.choice for answer in answers] == ["yes", None, "no"]


@pytest.mark.parametrize(
    "said",
    [
        "'max_tokens' is too large: 16. This model's maximum context length is 2048 tokens; unsupported",
        "invalid_request_error messages This model's maximum context length is 4096 tokens, 16 in max_tokens",
        "you exceeded the max_tokens that are not permitted",
        "max_tokens are fine, but the text is odd",
        "unsupported parameter: seed",
        "the max_tokens_of_the_day are not supported",
    ],
)
def test_an_error_about_one_text_is_not_taken_for_one_about_a_parameter(said):
    assert advice_on(said, ["model", "messages", "max_tokens"]) is None


def test_what_a_validator_repeats_of_the_request_is_not_what_it_refuses(provider, make):
    request = {"temperature": 0.0, "max_tokens": 16, "messages": []}
    detail = {"type": "missing", "loc": ["body", "acorn"], "msg": "Field is unknown", "input": request}
    provider.always = 422, {"detail": [detail]}, {}
    assert not failure(make(logprobs=False)).fatal


# Texts that a filter does not let by.


@pytest.mark.parametrize(
    "refusal",
    [
        trouble(400, "The response was filtered", code="content_filter", param="prompt"),
        trouble(400, "no", innererror={"code": "ResponsibleAIPolicyViolation"}),
        trouble(400, "The prompt triggered Azure OpenAI's content management policy"),
        (200, {"error": {"code": 400, "message": "content_filter"}}, {}),
    ],
)
def test_a_filtered_text_abstains_alone_for_good(provider, make, open_session, refusal):
    provider.replies = [refusal] * 25  # more in a row than a run endures failures
    provider.always = 200, completion("yes"), {}
    session = open_session(make(concurrency=1, input_price=1.0, output_price=1.0))
    answers = session.ask(PAIRS, QuestionCap(100))
    assert [answer.choice for answer in answers] == [None] * 25 + ["yes"] * 5
    assert answers[0].error.startswith("refused by the endpoint's content filter: ")
    assert answers[0].usage == Usage(0, 0, 1, 0.0)  # what it took is known, so that the total stays so
    assert (session.tally.failed, session.tally.abstained) == (0, 25)


def test_a_filtered_name_is_no_name(provider, make, open_session):
    provider.always = trouble(400, "The response was filtered", code="content_filter")
    assert open_session(make()).describe([TEXTS[:2]], QuestionCap(1)) == [None]


# Replies with status 200.


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (
            completion("", finish="length"),
            "no answer within max_output_tokens = 16; raise it, a model that thinks needs more",
        ),
        (
            completion(None, finish="length", reasoning_content="The answer is 1"),
            "no answer within max_output_tokens = 16; raise it, a model that thinks needs more",
        ),
        (
            completion("<think>It may be 1", finish="length"),
            "no answer within max_output_tokens = 16; raise it, a model that thinks needs more: '<think>It may be 1'",
        ),
        (completion(None, refusal="I can't\nhelp with 1"), 'the model refused: "I can\'t help with 1"'),
        (completion("", finish="content_filter"), "the endpoint's content filter cut the reply"),
        (completion(None, reasoning_content="The answer is 1"), "unreadable reply: ''"),
        (completion([{"type": "image", "url": "1"}, 7]), "unreadable reply: ''"),
    ],
)
def test_a_reply_without_an_answer_says_why(provider, make, reply, error):
    provider.always = 200, reply, {}
    (answer,) = make().answer([TRIPLET])
    assert (answer.choice, answer.confidence, answer.error) == (None, None, error)
    assert answer.usage == Usage(52, 1, 1)


def test_an_answer_in_a_reply_that_was_cut_short_counts(provider, make):
    provider.always = 200, completion("2, since both are about", finish="length"), {}
    assert [answer.choice for answer in make().answer([TRIPLET])] == ["2"]


def test_a_name_that_was_never_reached_is_none_and_says_why(provider, make, open_session):
    provider.always = 200, completion("<think>tea, tea", finish="length"), {}
    oracle = make()
    assert open_session(oracle).describe([TEXTS[:2]], QuestionCap(1)) == [None]
    assert "raise it" in oracle.describe(TEXTS[:2]).error


def test_a_text_in_parts_is_read(provider, make):
    parts = [{"type": "text", "text": "Choice "}, {"type": "text", "text": "2"}]
    provider.always = 200, completion(parts), {}
    assert [answer.choice for answer in make().answer([TRIPLET])] == ["2"]


def test_what_was_thought_in_a_field_of_its_own_is_ignored(provider, make):
    provider.always = 200, completion("2", reasoning_content="1", reasoning="1"), {}
    assert [answer.choice for answer in make().answer([TRIPLET])] == ["2"]


def in_choice(code):
    reply = completion("")
    reply["choices"][0] |= {"finish_reason": "error", "error": {"code": code, "message": "upstream"}}
    return reply


@pytest.mark.parametrize(
    ("body", "fatal", "retryable"),
    [
        ({"error": "model runner has unexpectedly stopped"}, False, True),
        ({"error": {"message": "Provider returned error", "code": 502}}, False, True),
        ({"error": {"message": "slow down", "code": "429"}}, False, True),
        ({"error": {"message": "no credits", "code": 402}}, True, False),
        ({"error": {"message": "who are you", "code": 401}}, True, False),
        ({"error": {"message": "too odd", "code": 400}}, False, False),
        (in_choice(503), False, True),
    ],
)
def test_an_error_with_status_200_is_an_error(provider, make, body, fatal, retryable):
    provider.always = 200, body, {}
    error = failure(make(logprobs=False))
    assert (error.fatal, error.retryable) == (fatal, retryable)


def test_no_key_is_shown_by_an_error_with_status_200(provider, monkeypatch):
    monkeypatch.setenv("ACORN", "squirrel-7-squirrel")
    provider.always = 200, {"error": f"{'x' * 490} squirrel-7-squirrel"}, {}
    assert "squirrel" not in str(failure(OpenAIOracle("acorn", provider.url, "ACORN")))


@pytest.mark.parametrize("body", [b"[1]", b"7", b"null", b'"1"', b'{"choices": [{"mess'])
def test_a_reply_of_another_kind_may_be_better_next_time(provider, make, body):
    provider.always = 200, body, {}
    error = failure(make())
    assert (error.retryable, "not a chat completion" in str(error)) == (True, True)


@pytest.mark.parametrize("usage", [{}, {"prompt_tokens": None, "completion_tokens": 1}, {"prompt_tokens": 3}, None])
def test_half_a_count_is_none(provider, make, usage):
    provider.always = 200, completion() | {"usage": usage}, {}
    oracle = make()
    (answer,) = oracle.answer([TRIPLET])
    assert answer.usage == oracle.worst_case(TRIPLET)
