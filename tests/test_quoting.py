"""What a quote shows of the questions, against what a fit then asks."""

import json

import pytest

from clusterllm_plugins import Answer, ClusterLLM, hookimpl
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.prompts import render
from test_cli import MESSAGES, clusterllm


class Abstaining:
    fingerprint = "abstaining"

    def __init__(self):
        self.asked = []

    def answer(self, questions):
        for question in questions:
            self.asked.append(question)
            yield Answer(None)


class Naming(Abstaining):
    def describe(self, texts):
        raise AssertionError("nothing is named")


def shout(text):
    return text.upper()


def make(oracle, **settings):
    return ClusterLLM(
        **{"embedder": "lsa", "oracle": oracle, "n_clusters": 8, "max_questions": 60} | settings, progress=False
    )


@pytest.mark.parametrize(
    ("oracle", "settings"),
    [(Abstaining, {"method": "paper"}), (Abstaining, {}), (Naming, {}), (Abstaining, {"n_clusters": "auto"})],
)
@pytest.mark.filterwarnings("ignore::clusterllm_plugins.errors.ClusterLLMWarning")
def test_the_first_questions_are_those_that_a_fit_asks(messages, oracle, settings):
    oracle = oracle()
    model = make(oracle, **settings)
    shown = model.first_questions(messages, 4)
    assert oracle.asked == []
    model.fit(messages)
    assert shown == oracle.asked[:4]


def test_what_is_redacted_is_not_shown(messages):
    model = make(Abstaining(), redact=[shout])
    for question in model.first_questions(messages, 5):
        texts = [question.anchor, *(text for group in question.groups for text in group)]
        assert texts == [shout(text) for text in texts]


def test_demonstrations_are_shown_redacted(messages):
    examples = [("a cat", "a dog", "no")]
    model = make(Abstaining(), method="paper", n_clusters=(2, 9), max_questions=0, redact=[shout])
    (pair,) = model.set_params(demonstrations=examples).first_questions(messages, 1)
    assert pair.demonstrations == (("A CAT", "A DOG", "no"),)


def test_no_plugin_sees_questions_that_are_only_shown(messages):
    class Watching:
        @hookimpl
        def answer_given(self, question):
            raise AssertionError("no answer was given")

    assert len(make(Abstaining()).add_plugin(Watching()).first_questions(messages, 2)) == 2


def test_nothing_is_stored(messages, tmp_path):
    make(Abstaining(), store=str(tmp_path / "answers.sqlite")).first_questions(messages, 2)
    assert list(tmp_path.iterdir()) == []


def test_there_are_no_more_questions_than_are_asked(messages, recwarn):
    assert len(make(Abstaining(), method="paper", max_questions=3).first_questions(messages, 9)) == 3
    assert make(Abstaining(), max_questions=0).first_questions(messages, 9) == []
    assert make(Abstaining()).first_questions(messages, 0) == []
    assert not [warning for warning in recwarn if "plain clustering" in str(warning.message)]


def test_without_an_oracle_there_is_nothing_to_show(messages):
    with pytest.raises(ClusterLLMError, match=r"^without an oracle nothing is sent: set one to see its questions$"):
        make(None).first_questions(messages, 1)


# --- at a shell ------------------------------------------------------------------------------------------------

OPTIONS = ["--embedder", "lsa", "--oracle", "openai", "--n-clusters", "8", "--max-questions", "30"]


def test_quote_shows_prompts_after_the_json(messages):
    pytest.importorskip("openai")
    printed = clusterllm("quote", MESSAGES, *OPTIONS, "--show", "2").stdout
    quoted, end = json.JSONDecoder().raw_decode(printed)
    assert quoted["questions"]["perspective"] == 30
    prompts = [render(question) for question in make({"name": "openai"}, max_questions=30).first_questions(messages, 2)]
    shown = [f"\n--- question {number} of 2 shown ---\n{prompt}\n" for number, prompt in enumerate(prompts, start=1)]
    assert printed[end:] == "\n" + "".join(shown)


def test_redact_names_a_redactor_at_a_shell(tmp_path):
    pytest.importorskip("openai")
    file = tmp_path / "notes.txt"
    file.write_text("\n".join(f"note {n} by ada{n}@example.com or 202-555-01{n}" for n in range(10, 40)))
    redacted = ["--redact", "emails", "--redact", "phones"]
    printed = clusterllm("quote", file, *OPTIONS, "--method", "paper", *redacted, "--show", "3").stdout
    assert printed.count("by [email] or [phone]") == 9
    assert "example.com" not in printed


def test_redact_is_kept_with_what_cluster_writes(tmp_path):
    options = ["--embedder", "lsa", "--n-clusters", "5", "--redact", "emails"]
    clusterllm("cluster", MESSAGES, "-o", tmp_path / "out", *options)
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["settings"]["redact"] == ["emails"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--redact", "email"], "error: unknown redactor 'email'; did you mean 'emails'? "),
        (["--redact", "names"], "error: redactor 'names' needs the setting 'model' "),
        (["--show", "1"], "error: without an oracle nothing is sent: "),
    ],
)
def test_a_mistake_is_one_line(options, message):
    failed = clusterllm("quote", MESSAGES, "--embedder", "lsa", *options, check=False)
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (2, "", 1)
    assert failed.stderr.startswith(message)
