"""The oracle ``batch``: files out, files in. Names and whole runs are in test_batch_rounds.py."""

import dataclasses
import re
import subprocess
import sys

import pytest

import clusterllm_oracles
from batch_kit import answered, asked, denied, run_batches, save
from clusterllm_oracles import batch
from clusterllm_oracles.batch import BatchOracle
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_plugins import Answer, ClusterLLMError, ClusterLLMWarning, OracleError, Usage
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.prompts import render
from clusterllm_plugins.questions import pair_question, triplet_question
from clusterllm_plugins.testing import check_oracle

TEXTS = ["The kettle leaks", "Water drips from my kettle", "客厅的灯太暗了", "The lamp flickers"]
TRIPLET = triplet_question(TEXTS, 0, 1, 2)
PAIR = pair_question(TEXTS, 0, 2)
OTHER = pair_question(TEXTS, 2, 3)
QUESTIONS = [TRIPLET, PAIR, OTHER]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "batch"


@pytest.fixture
def make(folder, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return lambda **settings: BatchOracle(**{"folder": folder, "model": "acorn", **settings})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def expired(id_):
    return {"custom_id": id_, "response": None, "error": {"code": "batch_expired", "message": "This was not run."}}


def ask(oracle, questions=QUESTIONS):
    """Return the answers up to the first question without one, and the error there."""
    answers = []
    try:
        for answer in oracle.answer(questions):
            answers.append(answer)  # those before an error are wanted too
    except OracleError as error:
        return answers, error
    return answers, None


def choices(answers):
    return [answer.choice for answer in answers]


# What is written.


def test_it_is_found_by_name(folder):
    plugins = Plugins(discover=False)
    plugins.register(clusterllm_oracles, "builtin")
    assert isinstance(plugins.oracle({"name": "batch", "folder": str(folder)}), BatchOracle)


def test_nothing_is_written_before_a_question_is_asked(make, folder):
    make().check()
    assert list(make().answer([])) == []
    assert not folder.exists()


def test_all_questions_of_a_round_are_in_one_file(make, folder):
    ask(make())
    assert [line["body"]["messages"] for line in asked(folder)] == [
        [{"role": "user", "content": render(question)}] for question in QUESTIONS
    ]
    assert names(folder) == ["requests-0001.jsonl"]


def test_a_line_is_a_request_of_the_batch_api(make, folder):
    ask(make(temperature=0.5, max_output_tokens=7), [TRIPLET])
    (line,) = asked(folder)
    assert re.fullmatch(r"[\w-]{1,64}", line.pop("custom_id"))
    assert line == {
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "acorn",
            "messages": [{"role": "user", "content": render(TRIPLET)}],
            "temperature": 0.5,
            "max_completion_tokens": 7,
            "logprobs": True,
            "top_logprobs": 5,
        },
    }


def test_another_endpoint_gets_its_own_path_and_its_name_for_the_limit(make, folder):
    ask(make(base_url="http://localhost:8000/v1", url="/v2/chat", temperature="", logprobs=False), [TRIPLET])
    (line,) = asked(folder)
    assert (line["url"], line["body"].keys()) == ("/v2/chat", {"model", "messages", "max_tokens"})


def test_equal_questions_are_one_request(make, folder):
    ask(make(), [TRIPLET, TRIPLET])
    assert len(asked(folder)) == 1


def test_a_repeat_is_a_request_of_its_own(make, folder):
    ask(make(), [PAIR, dataclasses.replace(PAIR, repeat=1)])
    assert len({line["custom_id"] for line in asked(folder)}) == 2


def test_the_run_stops_with_one_line_that_names_the_files(make, folder):
    answers, error = ask(make())
    assert (answers, error.fatal) == ([], True)
    assert str(error) == (
        f"oracle 'batch': 3 requests without a result: run {folder}/requests-0001.jsonl as a batch, "
        f"save its results as {folder}/results-0001.jsonl and its errors, if any, as {folder}/errors-0001.jsonl, "
        "then do the same again"
    )


def test_what_is_waited_for_is_not_written_again(make, folder):
    _, first = ask(make())
    before = (folder / "requests-0001.jsonl").read_bytes()
    _, second = ask(make())
    assert str(second) == str(first)
    assert names(folder) == ["requests-0001.jsonl"]
    assert (folder / "requests-0001.jsonl").read_bytes() == before


def test_questions_that_no_file_asks_yet_go_into_a_further_one(make, folder):
    ask(make(), [TRIPLET, PAIR])
    _, error = ask(make())
    assert len(asked(folder, 2)) == 1
    assert f"{folder}/requests-0001.jsonl, {folder}/requests-0002.jsonl" in str(error)


def test_a_file_of_other_settings_is_not_waited_for(make, folder):
    ask(make())
    _, error = ask(make(temperature=1.0))
    assert "requests-0001" not in str(error)
    assert len(asked(folder, 2)) == 3


def test_more_requests_than_a_file_may_have_are_several_files(make, folder):
    _, error = ask(make(batch_size=2))
    assert [len(asked(folder, number)) for number in (1, 2)] == [2, 1]
    assert f"{folder}/results-0001.jsonl, {folder}/results-0002.jsonl" in str(error)


def test_more_bytes_than_a_file_may_have_are_several_files(make, folder, monkeypatch):
    ask(make(folder=folder / "whole"))
    lines = (folder / "whole" / "requests-0001.jsonl").read_bytes().splitlines(keepends=True)
    limit = len(lines[0] + lines[1])
    monkeypatch.setattr(batch, "MAX_BYTES", limit)
    ask(make())
    assert [(folder / f"requests-000{number}.jsonl").stat().st_size for number in (1, 2)] == [limit, len(lines[2])]


@pytest.mark.parametrize("size", [0, 50_001])
def test_a_file_has_at_most_as_many_requests_as_the_batch_api_takes(make, size):
    with pytest.raises(ClusterLLMError, match="batch_size must be from 1 to 50000"):
        make(batch_size=size)


def test_a_number_in_use_is_never_used_again(make, folder):
    folder.mkdir()
    save(folder, [answered("elsewhere-1")], 7)
    with pytest.warns(ClusterLLMWarning, match="1 that answer no request"):
        ask(make())
    assert names(folder) == ["requests-0008.jsonl", "results-0007.jsonl"]


def test_a_kill_while_a_file_is_written_leaves_none(folder):
    code = (
        "import os, signal, sys\n"
        "from clusterllm_oracles.batch import BatchOracle\n"
        "from clusterllm_plugins.questions import pair_question\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "list(BatchOracle(sys.argv[1]).answer([pair_question(['a', 'b'], 0, 1)]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    assert killed.returncode == -9
    assert [name for name in names(folder) if name.endswith(".jsonl")] == []


def test_a_folder_that_cannot_be_made_is_one_line(make, folder):
    folder.write_text("a file")
    with pytest.raises(DataError, match="is not a folder"):
        make().check()
    with pytest.raises(DataError, match="cannot be made"):
        list(make(folder=folder / "deeper").answer([TRIPLET]))


def test_no_key_is_needed_or_written(make, folder, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-squirrel-7")
    _, error = ask(make())
    assert "squirrel" not in str(error) + (folder / "requests-0001.jsonl").read_text()
    monkeypatch.delenv("OPENAI_API_KEY")
    make().check()


# What is read.


def test_results_answer_their_questions_whatever_the_order_of_lines(make, folder):
    ask(make())
    ids = [line["custom_id"] for line in asked(folder)]
    save(folder, [answered(ids[2], "no"), answered(ids[0], "Choice 2"), answered(ids[1], "yes", (61, 3))])
    answers, error = ask(make())
    assert (choices(answers), error) == (["2", "yes", "no"], None)
    assert answers[1] == Answer("yes", usage=Usage(61, 3, 1))


def test_answers_before_the_first_missing_one_come_before_the_stop(make, folder):
    ask(make())
    ids = [line["custom_id"] for line in asked(folder)]
    save(folder, [answered(ids[0]), answered(ids[2], "no")])
    answers, error = ask(make())
    assert choices(answers) == ["1"]
    assert "1 request without a result" in str(error)
    assert [line["custom_id"] for line in asked(folder, 2)] == [ids[1]]


def test_what_was_missing_is_answered_by_the_next_file(make, folder):
    ask(make())
    ids = [line["custom_id"] for line in asked(folder)]
    save(folder, [answered(ids[0]), answered(ids[2], "no")])
    ask(make())
    save(folder, [answered(ids[1], "yes")], 2)
    assert choices(ask(make())[0]) == ["1", "yes", "no"]


@pytest.mark.parametrize(
    "failed", [expired, *(lambda id_, status=status: denied(id_, status) for status in (401, 404, 408, 429, 500, 503))]
)
@pytest.mark.parametrize("kind", ["results", "errors"])
def test_what_failed_is_asked_again_by_the_next_file(make, folder, failed, kind):
    ask(make(), [TRIPLET, PAIR])
    first, second = (line["custom_id"] for line in asked(folder))
    save(folder, [answered(second, "yes")] + ([failed(first)] if kind == "results" else []))
    if kind == "errors":
        save(folder, [failed(first)], kind="errors")
    _, error = ask(make(), [TRIPLET, PAIR])
    assert [line["custom_id"] for line in asked(folder, 2)] == [first]
    assert re.search(
        r"\(1 of them failed before, the first with '(status \d+: no luck|This was not run\.)'\)", str(error)
    )
    save(folder, [answered(first, "2")], 2)
    assert choices(ask(make(), [TRIPLET, PAIR])[0]) == ["2", "yes"]


def test_a_file_of_errors_alone_is_an_answer(make, folder):
    ask(make())
    save(folder, [expired(line["custom_id"]) for line in asked(folder)], kind="errors")
    _, error = ask(make())
    assert len(asked(folder, 2)) == 3
    assert "results-0002" in str(error)


def test_a_refused_question_abstains_for_good(make, folder):
    ask(make(), [TRIPLET, PAIR])
    first, second = (line["custom_id"] for line in asked(folder))
    save(folder, [answered(second, "yes")])
    save(folder, [denied(first, 400, "content policy")], kind="errors")
    answers, error = ask(make(), [TRIPLET, PAIR])
    assert (choices(answers), answers[0].error, error) == ([None, "yes"], "status 400: content policy", None)


def test_where_everything_is_refused_it_is_not_the_questions(make, folder):
    ask(make())
    save(folder, [denied(line["custom_id"], 400, "no temperature please") for line in asked(folder)], kind="errors")
    answers, error = ask(make())
    assert (answers, "no temperature please" in str(error)) == ([], True)


def test_an_answer_stays_whatever_a_later_file_says(make, folder):
    ask(make(), [PAIR])
    (line,) = asked(folder)
    save(folder, [answered(line["custom_id"], "yes")])
    save(folder, [denied(line["custom_id"], 500)], 2)
    assert choices(ask(make(), [PAIR])[0]) == ["yes"]


@pytest.mark.parametrize("content", ["I would rather not", "", None])
def test_a_reply_that_cannot_be_read_abstains_for_good(make, folder, content):
    ask(make(), [PAIR])
    save(folder, [answered(asked(folder)[0]["custom_id"], content)])
    answers, error = ask(make(), [PAIR])
    assert (choices(answers), error) == ([None], None)
    assert answers[0].error.startswith("unreadable reply")


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": None}, {"choices": [{"message": None}]}])
def test_a_completion_without_a_reply_abstains(make, folder, body):
    ask(make(), [PAIR])
    line = answered(asked(folder)[0]["custom_id"])
    save(folder, [line | {"response": {"status_code": 200, "body": body}}])
    assert choices(ask(make(), [PAIR])[0]) == [None]


def test_a_result_that_does_not_say_what_it_took_counts_as_the_worst_case(make, folder):
    ask(make(), [PAIR])
    save(folder, [answered(asked(folder)[0]["custom_id"], "yes", None)])
    oracle = make()
    assert ask(oracle, [PAIR])[0][0].usage == oracle.worst_case(PAIR)


def test_cost_is_reckoned_from_the_prices_in_a_batch(make, folder):
    ask(make(), [PAIR])
    save(folder, [answered(asked(folder)[0]["custom_id"], "yes", (1000, 10))])
    oracle = make(input_price=1.0, output_price=25.0)
    (answer,), _ = ask(oracle, [PAIR])
    assert answer.usage.cost == pytest.approx(0.00125)
    assert oracle.worst_case(PAIR).cost is not None


def test_lines_that_are_of_no_use_are_ignored_with_one_warning(make, folder):
    ask(make(), [PAIR])
    (id_,) = (line["custom_id"] for line in asked(folder))
    save(folder, [answered("elsewhere-1"), answered(id_, "yes"), answered(id_, "no"), answered("elsewhere-2")])
    oracle = make()
    with pytest.warns(ClusterLLMWarning) as caught:
        answers = [ask(oracle, [PAIR])[0], ask(oracle, [PAIR])[0]]
    assert [choices(some) for some in answers] == [["yes"], ["yes"]]
    assert [str(warning.message) for warning in caught] == [
        f"{folder}: lines of results are ignored: 2 that answer no request of this folder and 1 that answer one again"
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"custom_id": "a", "respo', "not JSON"),
        ("<html>", "not JSON"),
        ("[1]", "must be a JSON object"),
        ("{}", "no 'custom_id'"),
        ('{"custom_id": 7, "response": {}}', "no 'custom_id'"),
        ('{"custom_id": "a"}', "neither a 'response' nor an 'error'"),
        ('{"custom_id": "a", "response": "yes", "error": null}', "neither a 'response' nor an 'error'"),
    ],
)
@pytest.mark.parametrize("kind", ["results", "errors"])
@pytest.mark.parametrize("act", [BatchOracle.check, ask])
def test_a_malformed_line_is_told_with_its_file_and_number(make, folder, line, reason, kind, act):
    ask(make())
    save(folder, [answered(asked(folder)[0]["custom_id"]), line], kind=kind)
    with pytest.raises(DataError, match=reason) as caught:
        act(make())
    assert str(caught.value).startswith(f"{folder}/{kind}-0001.jsonl, line 2: ")
    assert "\n" not in str(caught.value)


def test_an_empty_results_file_is_no_answer(make, folder):
    ask(make())
    save(folder, [])
    with pytest.raises(DataError, match=r"results-0001\.jsonl: the file is empty"):
        ask(make())
    assert "requests-0002.jsonl" not in names(folder)


def test_a_key_in_a_reason_is_not_shown(make, folder):
    ask(make(), [PAIR])
    save(folder, [denied(asked(folder)[0]["custom_id"], 401, "wrong key sk-squirrel-7")])
    assert "squirrel" not in str(ask(make(), [PAIR])[1])


# Log-probabilities and constraints.

REFUSED = "Unsupported parameter: 'logprobs' is not supported with this model."


def test_a_result_with_logprobs_has_a_confidence(make, folder):
    ask(make(), [PAIR])
    (line,) = asked(folder)
    save(folder, [answered(line["custom_id"], "yes", tokens=[("yes", {"yes": 0.6, "no": 0.2})])])
    assert ask(make(), [PAIR])[0] == [Answer("yes", pytest.approx(0.75), Usage(52, 1, 1))]


@pytest.mark.parametrize("kind", ["results", "errors"])
def test_where_logprobs_are_refused_the_next_files_ask_without(make, folder, kind):
    ask(make(), [TRIPLET, PAIR])
    ids = [line["custom_id"] for line in asked(folder)]
    save(folder, [denied(id_, 400, REFUSED) for id_ in ids], kind=kind)
    ask(make(), [TRIPLET, PAIR])
    assert [line["custom_id"] for line in asked(folder, 2)] == ids
    assert not any("logprobs" in line["body"] for line in asked(folder, 2))
    save(folder, [answered(ids[0]), answered(ids[1], "yes")], 2)
    ask(make())
    assert not any("logprobs" in line["body"] for line in asked(folder, 3))


def test_what_another_model_refuses_is_asked_of_this_one(make, folder):
    ask(make(model="walnut"), [PAIR])
    save(folder, [denied(line["custom_id"], 400, REFUSED) for line in asked(folder)])
    ask(make(), [PAIR])
    assert "logprobs" in asked(folder, 2)[0]["body"]


def test_refused_logprobs_refuse_no_question(make, folder):
    ask(make(), [TRIPLET, PAIR])
    first, second = (line["custom_id"] for line in asked(folder))
    save(folder, [answered(first), denied(second, 400, REFUSED)])
    ask(make(), [TRIPLET, PAIR])
    assert [line["custom_id"] for line in asked(folder, 2)] == [second]


def test_a_constrained_request_carries_its_choices_and_its_result_is_read_strictly(make, folder):
    oracle = make(constrain="schema")
    ask(oracle, [TRIPLET, PAIR])
    lines = asked(folder)
    shown = [line["body"]["response_format"]["json_schema"]["schema"]["properties"]["choice"] for line in lines]
    assert [choice["enum"] for choice in shown] == [["1", "2"], ["yes", "no"]]
    save(folder, [answered(lines[0]["custom_id"], '{"choice": "2"}'), answered(lines[1]["custom_id"], "yes")])
    answers, error = ask(make(constrain="schema"), [TRIPLET, PAIR])
    assert (choices(answers), error) == (["2", None], None)


@pytest.mark.parametrize(
    ("body", "again"), [({"error": "stopped"}, True), ({"error": {"code": 400, "message": "too odd"}}, False)]
)
def test_an_error_in_a_result_of_status_200_is_one(make, folder, body, again):
    ask(make(), [TRIPLET, PAIR])
    first, second = (line["custom_id"] for line in asked(folder))
    failed = answered(second) | {"response": {"status_code": 200, "body": body}}
    save(folder, [answered(first), failed])
    answers, error = ask(make(), [TRIPLET, PAIR])
    assert choices(answers) == (["1"] if again else ["1", None])
    assert (error is not None) == again


def test_a_refused_question_costs_nothing(make, folder):
    ask(make(), [TRIPLET, PAIR])
    first, second = (line["custom_id"] for line in asked(folder))
    save(folder, [answered(first), denied(second, 400, "content policy")])
    answers, _ = ask(make(input_price=1.0, output_price=1.0), [TRIPLET, PAIR])
    assert answers[1].usage == Usage(0, 0, 1, 0.0)


# One fingerprint for both ways.


@pytest.mark.parametrize("settings", [{}, {"temperature": None}, {"base_url": "http://localhost:1/v1"}, {"model": "b"}])
def test_the_fingerprint_is_that_of_the_oracle_openai(make, settings):
    assert make(**settings).fingerprint == OpenAIOracle(**{"model": "acorn", **settings}).fingerprint


@pytest.mark.parametrize("change", [{"folder": "elsewhere"}, {"url": "/v2"}, {"batch_size": 5}, {"input_price": 1.0}])
def test_the_fingerprint_does_not_change_with_what_changes_no_answer(make, change):
    assert make(**change).fingerprint == make().fingerprint


def test_it_keeps_the_contract(make, folder):
    def reply(body):
        prompt = body["messages"][0]["content"]
        return ("no" if "yes or no" in prompt else "2"), (len(prompt.split()), 1)

    for _ in range(10):
        try:
            check_oracle(make)
        except OracleError:
            run_batches(folder, reply)
        else:
            break
    else:
        pytest.fail("it never had all answers")
