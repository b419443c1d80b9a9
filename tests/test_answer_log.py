"""A JSON line for each answer: what it took, and neither a text nor a key."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from asking_kit import QUESTIONS, SPENT, TEXTS, Metered, Scripted, ask, failing_at, in_turn
from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.answer_log import AnswerLog
from clusterllm_plugins.asking import known_key
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.errors import DataError, PluginError
from clusterllm_plugins.hookspecs import hookimpl
from clusterllm_plugins.questions import Answer, Completion, OracleError, Usage
from clusterllm_plugins.redaction import Redaction
from provider_kit import serving

CANARY = "canary-plumage-4471"  # stands in every text
KEY = "sk-canary-0123456789abcdef"
PLACES = ["kitchen", "garden", "cellar", "garage"]
MESSAGES = [f"{CANARY} the lamp in the {place} {what}" for place in PLACES for what in ("flickers", "broke", "hums")]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def logged(tmp_path, open_session):
    """Return a function that asks with a log, and returns its lines."""

    def logged(oracle, questions=QUESTIONS[:1], limit=1000, texts=False, **settings):
        path = tmp_path / "log.jsonl"
        with AnswerLog(path, texts=texts) as log:
            ask(open_session(oracle, log, **settings), questions, limit)
        return lines(path)

    return logged


# --- a line ------------------------------------------------------------------------------------------------------


def test_a_line_says_what_was_asked_and_what_it_took(logged):
    given = Answer("yes", 0.9, Usage(10, 1, 1, 0.25))
    (line,) = logged(Scripted(lambda question: given))
    said = datetime.fromisoformat(line.pop("time"))
    assert timedelta(0) <= datetime.now(UTC) - said < timedelta(minutes=1)
    assert line.pop("seconds") >= 0
    assert line == {
        "source": "asked",
        "oracle": "scripted",
        "kind": "pair",
        "indices": [0, 1],
        "choices": ["yes", "no"],
        "choice": "yes",
        "confidence": 0.9,
        "error": None,
        "attempts": 1,
        "input_tokens": 10,
        "output_tokens": 1,
        "requests": 1,
        "cost": 0.25,
    }


def test_seconds_are_those_of_the_attempt_that_was_answered(logged):
    clock = iter(range(100))
    oracle = Scripted(in_turn(OracleError("busy", retryable=True), "yes"))
    (line,) = logged(oracle, clock=lambda: float(next(clock)))
    assert (line["attempts"], line["seconds"]) == (2, 1.0)


def test_each_answer_of_a_batch_has_its_own_time(logged):
    now = [0.0]

    def slow(question):
        now[0] += 2.0
        return "yes"

    assert [line["seconds"] for line in logged(Scripted(slow, batch_size=3), QUESTIONS[:3], clock=lambda: now[0])] == [
        2
    ] * 3


def test_every_answer_has_a_line_under_concurrency(logged):
    found = logged(Scripted(concurrency=8), QUESTIONS)
    assert sorted(line["indices"][0] for line in found) == list(range(60))


def test_a_recalled_answer_took_nothing(logged, open_session):
    ask(open_session(Scripted()), QUESTIONS[:1])
    (line,) = logged(Scripted())
    assert (line["source"], line["choice"], line["attempts"]) == ("recalled", "yes", 0)
    assert (line["input_tokens"], line["requests"], line["cost"]) == (0, 0, 0.0)


def test_a_known_answer_is_told_as_such(logged):
    (line,) = logged(Scripted(), known={known_key(QUESTIONS[0]): Answer("no")})
    assert (line["source"], line["choice"]) == ("known", "no")


def test_what_a_cap_refused_has_its_reason(logged):
    refused = logged(Scripted(), QUESTIONS[:2], limit=1)[0]
    assert (refused["source"], refused["error"]) == ("refused", "not asked: the cap of 1 questions is reached")


def test_what_a_cap_on_tokens_refused_has_its_reason(logged):
    line = logged(Metered(Usage(10, 1)), QUESTIONS[:2], max_tokens=11)[1]
    assert (line["source"], line["error"]) == ("refused", "not asked: the cap of 11 tokens is reached")


def test_a_failed_question_has_its_attempts_and_an_unknown_cost(logged):
    (line,) = logged(Scripted(lambda question: OracleError("busy", retryable=True), max_retries=2))
    assert (line["source"], line["attempts"], line["choice"], line["cost"]) == ("failed", 3, None, None)


def test_a_name_is_a_line_without_the_name(tmp_path, open_session):
    class Namer(Scripted):
        def describe(self, texts):
            return Completion("late parcels", SPENT)

    with AnswerLog(tmp_path / "log.jsonl") as log:
        open_session(Namer(), log).describe([TEXTS[:3]], QuestionCap(5))
    (line,) = lines(tmp_path / "log.jsonl")
    assert (line["kind"], line["choice"], line["input_tokens"]) == ("description", None, 10)
    assert "parcels" not in json.dumps(line)


# --- no text and no key --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "written"),
    [
        ("unreadable reply: 'note 0'", "unreadable reply"),
        ("all members abstained: unreadable reply: 'note 0'", "all members abstained: unreadable reply"),
        ("oracle 'openai' (acorn): Error code: 400 - {'prompt': 'note 0'}", "Error code: 400"),
        ("the text 'note 0' is too long", "other"),
        ("not asked: I do not answer 'note 0'", "other"),
        (None, None),
    ],
)
def test_of_an_error_only_what_holds_no_text_is_written(logged, error, written):
    (line,) = logged(Scripted(lambda question: Answer(None, error=error)))
    assert line["error"] == written
    assert "note" not in json.dumps(line)


def test_texts_and_errors_are_written_where_that_is_asked_for(logged):
    (line,) = logged(Scripted(lambda question: Answer(None, error="unreadable reply: 'note 0'")), texts=True)
    assert (line["texts"], line["error"]) == (["note 0", "note 1"], "unreadable reply: 'note 0'")


def test_texts_are_redacted_ones(logged):
    redaction = Redaction([("hide", lambda text: text.replace("note", "***"))])
    (line,) = logged(Scripted(), texts=True, redaction=redaction)
    assert line["texts"] == ["*** 0", "*** 1"]


def test_no_key_is_written_even_with_texts(logged, monkeypatch):
    monkeypatch.setenv("ACORN_KEY", "squirrel-77-key")
    words = f"denied for {KEY} and squirrel-77-key at http://me:secret@host"
    (line,) = logged(Scripted(lambda question: Answer(None, error=words), fingerprint=f"acorn:{KEY}"), texts=True)
    assert (line["error"], line["oracle"]) == ("denied for *** and *** at http://***@host", "acorn:***")


# --- the file -------------------------------------------------------------------------------------------------------


def test_lines_are_added_to_a_log(logged):
    assert [len(logged(Scripted(), QUESTIONS[:2])) for _ in range(2)] == [2, 4]


def test_each_line_is_there_at_once(tmp_path, open_session):
    class Looking:
        def __init__(self):
            self.found = []

        @hookimpl
        def answer_received(self):
            self.found.append(len(lines(tmp_path / "log.jsonl")))

    looking = Looking()
    with AnswerLog(tmp_path / "log.jsonl") as log:
        ask(open_session(Scripted(), log, looking), QUESTIONS[:3])
    assert looking.found == [0, 1, 2]


def test_a_folder_is_made_for_the_log(tmp_path):
    AnswerLog(tmp_path / "new" / "log.jsonl").close()
    assert (tmp_path / "new" / "log.jsonl").exists()


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "tea"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"texts\.jsonl: holds something else than a log of answers; give another file"):
        AnswerLog(path)
    assert path.read_text(encoding="utf-8") == '{"text": "tea"}\n'


def test_a_log_that_fails_on_the_way_does_not_stop_the_work(tmp_path, open_session, caplog):
    log = AnswerLog(tmp_path / "log.jsonl")
    log.close()
    answers = ask(open_session(Scripted(), log), QUESTIONS[:2])
    assert ([answer.choice for answer in answers], len(caplog.messages)) == (["yes"] * 2, 1)


def test_all_places_of_one_question_are_one_line(logged):
    assert len(logged(Scripted(failing_at({})), [QUESTIONS[0]] * 3)) == 1


# --- in Python and at a shell -----------------------------------------------------------------------------------------


def test_a_model_takes_a_log_as_a_plugin(tmp_path, texts):
    oracle = Scripted(lambda question: question.choices[0])
    with AnswerLog(tmp_path / "log.jsonl") as log:
        model = ClusterLLM("lsa", oracle, 3, "paper", max_questions=5, progress=False).add_plugin(log)
        model.fit(texts)
    assert [line["indices"] for line in lines(tmp_path / "log.jsonl")] == json.loads(
        json.dumps([question.indices for question in model.questions_])
    )


def test_a_plugin_with_a_misspelt_hook_is_refused():
    class Misspelt:
        @hookimpl
        def answer_givn(self):
            pass

    with pytest.raises(PluginError, match="answer_givn"):
        ClusterLLM().add_plugin(Misspelt())


@pytest.fixture
def shell(tmp_path):
    """Return a function that runs the command on texts with a canary, against a server that needs a key."""
    (tmp_path / "texts.jsonl").write_text(
        "".join(f"{json.dumps({'text': text})}\n" for text in MESSAGES), encoding="utf-8"
    )

    def reply(prompt):
        asked.append(prompt)
        if len(asked) % 4 == 1:
            return 503, f"{CANARY} later, {KEY}"
        return f"as for {CANARY} {KEY}, who knows" if len(asked) % 4 == 2 else "1"

    def run(*arguments):
        command = ["cluster", "texts.jsonl", "-o", "out", "--embedder", "lsa", "--n-clusters", "3", "--method", "paper"]
        command += ["--max-questions", "8", "--oracle", "openai", "--set", f"oracle.base_url={server.url}"]
        code = [sys.executable, "-c", "from clusterllm_plugins.cli import main; main()", *command, *arguments]
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment |= {"OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "OPENAI_BASE_URL": ""}
        done = subprocess.run(code, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
        return done, asked

    asked = []
    with serving(reply) as server:
        yield run


def test_the_command_writes_a_log_without_texts_and_keys(shell, tmp_path):
    done, asked = shell("--log", "out/log.jsonl")
    assert done.returncode == 0, done.stderr
    content = (tmp_path / "out" / "log.jsonl").read_text(encoding="utf-8")
    assert (CANARY in content, KEY in content, "lamp" in content) == (False, False, False)
    found = lines(tmp_path / "out" / "log.jsonl")
    assert sum(line["attempts"] for line in found) == len(asked) > len(found) == 8
    assert {line["error"] for line in found} == {None, "unreadable reply"}


def test_the_log_adds_up_to_what_the_summary_says(shell, tmp_path):
    shell("--log", "log.jsonl", "--set", "oracle.input_price=1.0", "--set", "oracle.output_price=2.0")
    usage = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["usage"]
    found = lines(tmp_path / "log.jsonl")
    assert {name: sum(line[name] for line in found) for name in usage} == pytest.approx(usage)


def test_the_same_run_again_is_logged_as_recalled(shell, tmp_path):
    shell("--log", "out/log.jsonl")
    done, _ = shell("--log", "out/log.jsonl")
    assert done.returncode == 0, done.stderr
    assert [line["source"] for line in lines(tmp_path / "out" / "log.jsonl")[-8:]] == ["recalled"] * 8


def test_the_command_writes_texts_where_that_is_asked_for(shell, tmp_path):
    shell("--log", "log.jsonl", "--log-texts")
    content = (tmp_path / "log.jsonl").read_text(encoding="utf-8")
    assert (CANARY in content, KEY in content) == (True, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--log", "."], "error: log .: cannot be written (Is a directory); give another file"),
        (
            ["--log", "texts.jsonl/log"],
            "error: log texts.jsonl/log: cannot be written (Not a directory); give another file",
        ),
        (
            ["--log", "texts.jsonl"],
            "error: log texts.jsonl: holds something else than a log of answers; give another file",
        ),
        (["--log-texts"], "error: --log-texts says what is in a log: give --log FILE, too"),
    ],
)
def test_a_log_that_cannot_be_written_is_told_before_anything_is_asked(shell, tmp_path, options, message):
    done, asked = shell(*options)
    assert (done.returncode, done.stderr.strip(), asked) == (2, message, [])
    assert not (tmp_path / "out").exists()
