"""A whole run, replayed from what ``answers`` exports of it: the same bytes, and nobody is asked."""

import json

import pytest

from clusterllm_oracles.replay import ReplayOracle
from clusterllm_plugins import Answer, ClusterLLM
from clusterllm_plugins.questions import Completion, OracleError, Usage
from clusterllm_plugins.recording import load_answers
from clusterllm_plugins.runs import Run, recorded_lines
from clusterllm_plugins.store import AnswerStore

pytestmark = pytest.mark.filterwarnings("ignore::clusterllm_plugins.ClusterLLMWarning")


class Moody:
    """Answers by the labels; abstains, fails and likes the first place now and then, as the place of the text says."""

    fingerprint = "moody"
    batch_size = 4

    def __init__(self, labels, failing=False):
        self.labels, self.failing = labels, failing

    def worst_case(self, question):
        return Usage(100, 10, 1)

    def worst_case_of(self, prompt):
        return Usage(100, 10, 1)

    def answer(self, questions):
        for question in questions:
            mood = (question.anchor_index * 7 + sum(question.group_indices[0])) % 23
            if mood == 0 and self.failing:
                raise OracleError("too long")
            yield self.said(question, mood)

    def said(self, question, mood):
        usage = Usage(50, 1, 1)
        if mood == 1:
            return Answer(None, usage=usage, error="unreadable reply: ''")
        label = self.labels[question.anchor_index]
        fitting = [self.labels[group[0]] == label for group in question.group_indices]
        if question.kind == "pair":
            return Answer("yes" if fitting[0] else "no", 0.75, usage)
        place = 0 if mood == 2 or True not in fitting else fitting.index(True)
        return Answer(question.choices[-1] if mood == 3 else str(place + 1), 0.5, usage)


class Naming(Moody):
    def describe(self, texts, instruction=None):
        # What is read from the first would be read otherwise a second time.
        return Completion('I would call this group "Name: thing".' if len(texts[0]) % 3 else "", Usage(40, 3, 1))


def shout(text):
    return text.upper()


def run(tmp_path, messages, name, **settings):
    file = tmp_path / "messages.txt"
    file.write_text("".join(f"{text}\n" for text in messages), encoding="utf-8")
    given = {"embedder": "lsa", "n_clusters": 8, "max_questions": 120, "max_granularity_questions": 60}
    Run(file, tmp_path / name, {**given, **settings}).execute()
    folder = tmp_path / name
    summary = json.loads((folder / "summary.json").read_text())
    return (folder / "clusters.jsonl").read_bytes(), summary["report"]


def export(tmp_path, source):
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(f"{line}\n" for line in recorded_lines(source)), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("oracle", "settings"),
    [
        (Naming, {}),
        (Moody, {}),
        pytest.param(Naming, {"n_clusters": (2, 20)}, marks=pytest.mark.slow),
        (Naming, {"method": "paper", "iterations": 2, "n_clusters": (2, 20)}),
        (Naming, {"redact": [shout]}),
        (Naming, {"max_tokens": 9000}),
    ],
    ids=["auto", "no names", "open", "paper", "redacted", "capped"],
)
@pytest.mark.parametrize("failing", [pytest.param(False, marks=pytest.mark.slow), True], ids=["", "failing"])
def test_a_run_replays_byte_by_byte(tmp_path, messages, message_labels, oracle, settings, failing):
    first = run(tmp_path, messages, "out", oracle=oracle(message_labels, failing), **settings)
    replay = {"name": "replay", "path": str(export(tmp_path, tmp_path / "out"))}
    again = run(tmp_path, messages, "again", oracle=replay, **settings)
    assert again[0] == first[0]
    assert again[1]["questions"] == first[1]["questions"]
    assert again[1]["names"] == first[1]["names"]
    assert first[1]["questions"]["abstained"] > 0
    assert (first[1]["questions"]["failed"] > 0) == failing


def test_names_are_replayed_as_they_stand(tmp_path, messages, message_labels):
    first = run(tmp_path, messages, "out", oracle=Naming(message_labels))
    assert first[1]["names"]["asked"] > 0
    assert b'"cluster_label": "Name: thing' in first[0]


def test_an_oracle_that_named_nothing_still_keeps_questions_back(tmp_path, messages, message_labels):
    class Useless(Naming):
        def said(self, question, mood):
            return Answer("1" if question.kind == "choice" else "no")

    first = run(tmp_path, messages, "out", oracle=Useless(message_labels))
    assert first[1]["questions"]["names"] == 0
    oracle = ReplayOracle(export(tmp_path, tmp_path / "out"))
    assert oracle.describe is not None


def test_known_answers_alone_give_the_clusters_of_the_paper(tmp_path, messages, message_labels):
    settings = {"method": "paper", "n_clusters": (2, 20)}
    first = run(tmp_path, messages, "out", oracle=Moody(message_labels), **settings)
    known = load_answers(export(tmp_path, tmp_path / "out"), messages)
    model = ClusterLLM("lsa", None, max_questions=120, progress=False, **settings).fit(messages, answers=known)
    clusters = [json.loads(line)["cluster_id"] for line in first[0].splitlines()]
    assert model.labels_.tolist() == clusters


def test_a_run_that_ended_midway_exports_what_is_stored(tmp_path, messages, message_labels):
    class Dying(Naming):
        def describe(self, texts, instruction=None):
            if len(texts[0]) % 2:
                raise OracleError("the key expired", fatal=True)
            return Completion("A thing")

    with pytest.raises(OracleError):
        run(tmp_path, messages, "out", oracle=Dying(message_labels))
    lines = [json.loads(line) for line in recorded_lines(tmp_path / "out")]
    with AnswerStore(tmp_path / "out" / "answers.sqlite") as store:
        assert len(lines) == len(list(store)) + len(list(store.names()))


def test_a_store_by_itself_is_exported_with_its_names(tmp_path, messages, message_labels):
    store = tmp_path / "some.sqlite"
    model = ClusterLLM("lsa", Naming(message_labels), n_clusters=8, max_questions=120, store=store, progress=False)
    model.fit(messages)
    again = model.set_params(oracle=ReplayOracle(export(tmp_path, store)), store=None)
    names = model.cluster_labels_
    assert again.fit(messages).cluster_labels_ == names


def test_names_and_what_has_no_answer_are_no_known_answers(tmp_path, messages, message_labels):
    run(tmp_path, messages, "out", oracle=Naming(message_labels, failing=True), max_tokens=9000)
    path = export(tmp_path, tmp_path / "out")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    answers = [
        line
        for line in lines
        if line["kind"] != "description" and "failed" not in line and "not asked" not in (line["error"] or "")
    ]
    assert len(load_answers(path, messages)) == len(answers) < len(lines)


def test_a_loaded_model_has_its_questions_without_the_names(tmp_path, messages, message_labels):
    model = ClusterLLM("lsa", Naming(message_labels), n_clusters=8, max_questions=120, progress=False).fit(messages)
    model.save(tmp_path / "model")
    loaded = ClusterLLM.load(tmp_path / "model")
    assert (loaded.questions_, loaded.answers_) == (model.questions_, model.answers_)


def test_the_store_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("clusterllm_plugins.store._ROWS_AT_ONCE", 2)
    from asking_kit import QUESTIONS

    with AnswerStore(tmp_path / "some.sqlite") as store:
        for question in QUESTIONS[:5]:
            store.put("someone", question, Answer("yes"), with_indices=True)
        assert {question for _, question, _ in store} == set(QUESTIONS[:5])


def test_the_same_question_in_another_order_has_its_own_answer(tmp_path):
    from clusterllm_plugins.questions import choice_question
    from clusterllm_plugins.recording import answer_lines

    texts = ["tea", "milk", "mug", "wool"]
    one = choice_question(texts, 0, [[1], [2], [3]], none=True)
    other = choice_question(texts, 0, [[3], [2], [1]], none=True)
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(f"{line}\n" for line in answer_lines([(one, Answer("1")), (other, Answer("1"))])))
    oracle = ReplayOracle(path)
    oracle.prepare(texts, None)
    assert [answer.choice for answer in oracle.answer([one, other])] == ["1", "1"]
