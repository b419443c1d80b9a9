"""What a quote shows of the questions, against what a fit then asks."""

import json

import pytest

from clusterllm_plugins import Answer, ClusterLLM, hookimpl
from clusterllm_plugins.corpus import make_corpus
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.fitting import FitSettings
from clusterllm_plugins.guided.checks import CHECK_CANDIDATES
from clusterllm_plugins.guided.planning import SHAPES
from clusterllm_plugins.prompts import PromptedOracle, render
from clusterllm_plugins.questions import Completion, Usage
from clusterllm_plugins.quoting import _widest
from clusterllm_plugins.redaction import Redaction
from clusterllm_plugins.tokens import CHAT_TOKENS, estimate_tokens
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


# --- what is expected, and what is taken at most ------------------------------------------------------------------


class Counting(PromptedOracle):
    """Replies at random places, and says what it took: by the same estimate, or by the most that a byte can be."""

    fingerprint = "counting"

    def __init__(self):
        self.prompts = []

    def complete(self, prompt, choices):
        self.prompts.append(prompt)
        text = choices[len(prompt) % len(choices)] if choices else "A thing"
        return Completion(text, Usage(estimate_tokens(prompt) + CHAT_TOKENS, 1 if choices else 3, 1))


@pytest.mark.filterwarnings("ignore::clusterllm_plugins.errors.ClusterLLMWarning")
@pytest.mark.parametrize("n_clusters", [8, (2, 12)])
def test_paper_takes_what_was_quoted(messages, n_clusters):
    settings = {"method": "paper", "n_clusters": n_clusters, "max_granularity_questions": 40}
    model = make(Counting(), **settings, instruction="by what is wanted")
    quoted = model.quote(messages)
    used = model.fit(messages).usage_
    # Pairs are asked in the refined space, which is not known before.
    assert quoted["input_tokens"] == pytest.approx(used.input_tokens, rel=0 if n_clusters == 8 else 0.02)
    assert quoted["output_tokens"] == used.output_tokens
    assert quoted["questions"]["perspective"] + quoted["questions"]["granularity"] == used.requests


@pytest.mark.filterwarnings("ignore::clusterllm_plugins.errors.ClusterLLMWarning")
@pytest.mark.parametrize("settings", [{}, {"n_clusters": "auto"}, {"max_tokens": 4000}, {"instruction": "by tone"}])
def test_auto_never_passes_its_bounds(messages, settings):
    model = make(Counting(), max_questions=120, max_granularity_questions=60, **settings)
    quoted = model.quote(messages)
    used = model.fit(messages).usage_
    counts = model.report_["questions"]
    assert used.input_tokens <= quoted["input_tokens_at_most"]
    assert used.output_tokens <= quoted["output_tokens_at_most"]
    assert quoted["input_tokens"] <= quoted["input_tokens_at_most"]
    assert counts["asked"] + counts["names"] <= sum(quoted["questions"].values())


def test_checks_of_an_oracle_show_more_than_a_small_shape():
    texts = [f"note {number}" for number in range(40)]
    corpus = make_corpus(texts, Redaction())
    widest = _widest(corpus, SHAPES[-1], {"perspective": 1, "granularity": 0, "names": 0}, make_settings())
    assert len(widest[0][1].groups) == CHECK_CANDIDATES > SHAPES[-1].candidates


def make_settings():
    return FitSettings(5, 5, 100, 1, 0, None, (), 0, progress=False)


def test_names_are_in_the_quote(messages):
    assert make(Naming(), max_questions=60).quote(messages)["questions"]["names"] == 8
    assert make(Abstaining(), max_questions=60).quote(messages)["questions"]["names"] == 0
    assert make(Naming(), max_questions=60, method="paper").quote(messages)["questions"]["names"] == 0


def test_an_oracle_that_cannot_say_leaves_tokens_unknown(messages):
    quoted = make(Abstaining()).quote(messages)
    assert [quoted[name] for name in ("input_tokens", "cost", "input_tokens_at_most", "cost_at_most")] == [None] * 4


def test_a_cap_bounds_what_is_quoted(messages):
    quoted = make(Counting(), max_tokens=500, max_questions=120).quote(messages)
    assert quoted["input_tokens"] == quoted["input_tokens_at_most"] == 500


@pytest.mark.parametrize("method", ["auto", "paper"])
def test_a_batch_is_expected_to_cost_half(messages, method, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    openai = make({"name": "openai"}, method=method).quote(messages)
    batch = make({"name": "batch"}, method=method).quote(messages)
    assert openai["cost"] == pytest.approx(
        (openai["input_tokens"] * 0.15 + openai["output_tokens"] * 0.6) / 1e6, rel=1e-2
    )
    assert batch["cost"] == pytest.approx(openai["cost"] / 2)
    assert 0 < openai["cost"] < openai["cost_at_most"]


def test_a_council_is_expected_to_take_what_its_members_take(messages):
    alone = make(Counting(), method="paper").quote(messages)
    both = make({"name": "council", "members": [Counting(), Counting()]}, method="paper").quote(messages)
    cascade = {"name": "council", "mode": "cascade", "members": [Counting(), Counting()]}
    assert both["input_tokens"] == 2 * alone["input_tokens"]
    assert make(cascade, method="paper").quote(messages)["input_tokens"] is None


def test_a_replay_is_expected_to_take_nothing(messages, tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text("")
    quoted = make({"name": "replay", "path": str(path)}, method="paper").quote(messages)
    assert (quoted["input_tokens"], quoted["cost"], quoted["cost_at_most"]) == (0, 0.0, 0.0)
