import io
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("termios", reason="this system has no pseudo-terminals")

from clusterllm_oracles.human import HumanOracle
from clusterllm_oracles.terminal import Terminal, WindowsKeys, columns, escaped, wrapped
from clusterllm_plugins.questions import OracleError
from clusterllm_plugins.store import AnswerStore
from terminal_kit import Person, on_screen

STRANGE = {
    "אבד לי החבילה": "אבד לי החבילה",
    "我的包裹在哪里": "我的包裹在哪里",
    "parcel \x1b[31mlate\x07 again": r"parcel \x1b[31mlate\x07 again",
}
PLAIN = ["courier late", "password wrong", "login password reset", "invoice copy", "invoice tax copy", "tax missing"]
SETTINGS = ["--oracle", "human", "--embedder", "lsa", "--method", "paper", "--n-clusters", "3", "--max-questions", "4"]


@pytest.fixture
def cluster(tmp_path):
    """Runs ``clusterllm cluster`` on a small file at a pseudo-terminal."""
    file = tmp_path / "texts.jsonl"
    texts = [*STRANGE, *PLAIN]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return lambda *more, **options: Person("cluster", file, "-o", tmp_path / "out", *SETTINGS, *more, **options)


@pytest.fixture
def answers(tmp_path):
    """Returns the stored choices by what was asked."""

    def read():
        with AnswerStore(tmp_path / "out" / "answers.sqlite") as store:
            return {question.indices: answer.choice for _, question, answer in store}

    return read


def test_all_questions_are_answered_and_the_texts_clustered(cluster, answers, tmp_path):
    with cluster() as person:
        person.press("1", "2", "s", "1")
        code, screen = person.end()
        assert person.settings_are_as_before()
    assert (code, sorted(map(str, answers().values()))) == (0, ["1", "1", "2", "None"])
    assert "questions: 4 asked, 1 abstained; tokens: 0" in screen
    assert len((tmp_path / "out" / "clusters.jsonl").read_text(encoding="utf-8").splitlines()) == 9


def test_undo_quit_and_resume(cluster, answers):
    with cluster() as person:
        person.press("1", "1", "u", "2", "q")
        code, screen = person.end()
        assert person.settings_are_as_before()
    assert code == 2
    assert (
        "error: oracle 'human': you quit after 2 answers; run the same again, with the same store, to go on from there"
        in screen
    )
    first = answers()
    assert list(first.values()).count("2") == 1
    assert len(first) == 2
    with cluster() as person:
        person.press("1", "1")
        code, screen = person.end()
    assert (code, "questions: 2 asked, 2 recalled; tokens: 0" in screen) == (0, True)
    assert first.items() <= answers().items()
    assert len(answers()) == 4


@pytest.mark.parametrize(("key", "code"), [("\x04", 2), ("\x03", 1)], ids=["Ctrl-D", "Ctrl-C"])
def test_ctrl_d_and_ctrl_c_stop_the_run_and_keep_all_answers(cluster, answers, key, code):
    with cluster() as person:
        person.press("1", key)
        ended, screen = person.end()
        assert person.settings_are_as_before()
    said = {
        "\x04": "error: oracle 'human': the input ended after 1 answer",
        "\x03": "stopped: the same command goes on where it was; no answer is lost",
    }
    assert any(line.startswith(said[key]) for line in screen)
    assert (ended, list(answers().values())) == (code, ["1"])


def test_texts_of_any_script_are_shown_and_none_can_steer_the_terminal(cluster):
    with cluster("--max-questions", "40", NO_COLOR="1") as person:
        shown = ""
        for _ in range(40):
            shown += person.question()
            if all(text in shown for text in STRANGE.values()):
                break
            person.type("1")
        person.type("q")
    assert all(text in shown for text in STRANGE.values())
    assert "\x1b" not in shown


def test_the_bar_stands_below_the_question(cluster):
    with cluster() as person:
        for number in range(3):
            person.question()
            person.wait_for("]")
            *_, keys, bar = on_screen(person.screen)
            person.type("1")
            assert keys.endswith("q quit")
            assert bar.startswith("asking triplets:")
            assert bar.endswith("]")
            assert f"[{number} answered] Which text does the last one belong with?" in on_screen(person.screen)


def test_nothing_is_left_of_the_bar_in_other_lines(cluster):
    with cluster() as person:
        person.press("1", "q")
        _, screen = person.end()
    assert [line for line in screen if "?" in line and "answered]" not in line] == []
    assert any(line.startswith("error: oracle 'human'") for line in screen)
    assert "  answer: 1" in screen


def test_a_file_for_the_results_leaves_the_questions_on_the_terminal(cluster, tmp_path):
    redirect = "import sys\nsys.stdout = open(sys.argv.pop(1), 'w')\nfrom clusterllm_plugins.cli import main\nmain()"
    printed = tmp_path / "printed.txt"
    file = tmp_path / "texts.jsonl"
    with Person(printed, "cluster", file, "-o", tmp_path / "out", *SETTINGS, code=redirect) as person:
        person.press("1", "1", "1", "1")
        assert person.end()[0] == 0
    assert "answered]" not in printed.read_text(encoding="utf-8")


def test_without_a_terminal_it_is_an_error_of_one_line(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(PLAIN), encoding="utf-8")
    command = [sys.executable, "-m", "clusterllm_plugins", "cluster", str(file), "-o", str(tmp_path / "out"), *SETTINGS]
    done = subprocess.run(command, input="1\n1\n1\n1\n", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: oracle 'human': a person answers at a terminal, and there is none here; "
        "run this at a terminal, its input not redirected\n"
    )


# Keys, at a pseudo-terminal but without the command.

ASKING = """
import json, sys
from clusterllm_oracles.human import HumanOracle
from clusterllm_plugins.questions import choice_question
count, number = map(int, sys.argv[1:])
texts = [f"text {place}" for place in range(count + 1)]
question = choice_question(texts, 0, [[place] for place in range(1, count + 1)], none=True)
answers = HumanOracle().answer([question] * number)
print(json.dumps([answer.choice for answer in answers]))
"""


def answered(person):
    return json.loads(person.end()[1][-2])


@pytest.mark.parametrize(
    ("keys", "choice"),
    [
        ("12\r", "12"),
        ("1\r", "1"),
        ("13\x7f2\r", "12"),
        ("1\x7f\x7f\x7f3\n", "3"),
        ("1\x7f\rn", "none"),
        ("1n", "none"),
        ("99\r7\r", "7"),
    ],
)
def test_a_number_is_typed_with_enter_where_there_are_more_than_nine(keys, choice):
    with Person(12, 1, code=ASKING) as person:
        person.press(keys)
        assert answered(person) == [choice]


def test_a_typed_number_is_echoed():
    with Person(12, 1, code=ASKING) as person:
        person.press("11\r")
        assert "11" in person.end()[1]  # a line of its own


@pytest.mark.parametrize(
    "sequence",
    ["\x1b[A", "\x1bOP", "\x1b[3~", "\x1b[15;2~", "\x1b[2", "\x1b", "\x1bn", "\x1a\x1c", "é", "\x00"],
    ids=["arrow", "F1", "delete", "F5", "cut", "escape", "Alt-n", "Ctrl-Z", "letter", "nothing"],
)
def test_other_keys_answer_nothing(sequence):
    with Person(3, 1, code=ASKING) as person:
        person.question()
        person.type(sequence)
        with pytest.raises(AssertionError, match=r"^no 'answer:'"):
            person.wait_for("answer:", patience=0.3)
        person.type("3")
        assert answered(person) == ["3"]


def test_what_was_pressed_before_a_question_is_shown_does_not_answer_it():
    slow = ASKING.replace("answers =", "print('wait', flush=True); __import__('time').sleep(0.5)\nanswers =")
    with Person(3, 1, code=slow) as person:
        person.wait_for("wait")
        person.type("12")
        person.press("3")
        assert answered(person) == ["3"]


def test_two_keys_at_once_answer_one_question():
    with Person(3, 2, code=ASKING) as person:
        person.press("12")
        person.press("3")
        assert answered(person) == ["1", "3"]


def test_keys_are_not_echoed_and_the_settings_are_restored_between_questions():
    with Person(3, 1, code=ASKING + "input('more: ')") as person:
        person.question()
        assert not person.settings_are_as_before()
        person.type("2")
        person.wait_for("more: ")
        assert person.settings_are_as_before()
        person.type("typed\n")
        person.wait_for("typed")


HANGING = """
import pathlib, signal, sys
from clusterllm_oracles.human import HumanOracle
from clusterllm_plugins.questions import pair_question
signal.signal(signal.SIGHUP, signal.SIG_IGN)
try:
    list(HumanOracle().answer([pair_question(["a", "b"], 0, 1)]))
except Exception as error:
    pathlib.Path(sys.argv[1]).write_text(str(error))
"""


def test_a_terminal_that_goes_away_is_the_end_of_the_input(tmp_path):
    said = tmp_path / "said.txt"
    with Person(said, code=HANGING) as person:
        person.question()
        person.hang_up()
        person.process.wait(timeout=30)
    assert said.read_text().startswith("oracle 'human': the input ended after 0 answers")


@pytest.mark.parametrize(
    ("environment", "styled"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["a usual terminal", "NO_COLOR", "dumb"],
)
def test_styles_are_for_terminals_that_want_them(environment, styled):
    with Person(3, 1, code=ASKING, **environment) as person:
        assert ("\x1b[1mtext 0\x1b[0m" in person.question()) == styled


@pytest.mark.parametrize(("width", "longest"), [(40, 40), (300, 100), (0, 80), (5, 20)])
def test_lines_are_as_wide_as_the_terminal_within_reason(width, longest):
    code = ASKING.replace('f"text {place}"', '"word " * 50')
    with Person(3, 1, code=code, columns=width, NO_COLOR="1") as person:
        lines = on_screen(person.wait_for("quit"))
    assert longest - 5 < max(map(len, lines)) <= longest


def test_an_output_that_cannot_write_a_character_gets_an_escape():
    code = ASKING.replace('f"text {place}"', "'\\u706f'")
    with Person(3, 1, code=code, PYTHONIOENCODING="ascii") as person:
        assert r"\u706f" in person.question()


# Without a terminal.


def test_a_standard_input_that_is_no_terminal_is_an_error_before_anything_is_done(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n"))
    with pytest.raises(OracleError, match="a person answers at a terminal, and there is none here") as caught:
        HumanOracle().check()
    assert caught.value.fatal


@pytest.mark.parametrize("gone", [None, "closed"])
def test_a_standard_input_that_is_not_there_is_no_terminal(monkeypatch, gone):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stdin", closed if gone else None)
    with pytest.raises(OracleError, match="there is none here"):
        HumanOracle().check()


def test_streams_that_are_given_need_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    oracle = HumanOracle()
    oracle.streams = io.StringIO(), io.StringIO()
    oracle.check()


def test_the_keyboard_of_windows():
    pressed = list("xx\xe0H\x00;12\r")
    early = pressed[:2]
    module = SimpleNamespace(kbhit=lambda: bool(early), getwch=lambda: (early and early.pop(), pressed.pop(0))[1])
    with Terminal(WindowsKeys(module), io.TextIOWrapper(io.BytesIO(), "utf-8")) as terminal:
        assert [terminal.read(number=True) for _ in range(3)] == ["", "", "12"]


def test_the_end_of_the_input_on_windows():
    module = SimpleNamespace(kbhit=lambda: False, getwch=lambda: "\x1a")
    with Terminal(WindowsKeys(module), io.StringIO()) as terminal:
        assert terminal.read(number=False) is None


# Texts.


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain é 灯 א 🙂", "plain é 灯 א 🙂"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\tb\r\nc\x00\x7f\x9b", r"a\tb\r\nc\x00\x7f\x9b"),
        ("\u202eabc\u2066\u200f\ufeff", r"\u202eabc\u2066\u200f\ufeff"),
        ("\u2028\u2029\ud800", r"\u2028\u2029\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("می\u200cخواهم 👩\u200d🚀", "می\u200cخواهم 👩\u200d🚀"),
    ],
)
def test_control_and_format_characters_are_escaped(text, safe):
    assert escaped(text) == safe


@pytest.mark.parametrize(("text", "width"), [("abc", 3), ("灯太", 4), ("e\u0301", 1), ("שלום", 4), ("", 0)])
def test_columns(text, width):
    assert columns(text) == width


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 5, [""]),
        ("one two", 7, ["one two"]),
        ("one two", 6, ["one", "two"]),
        ("one two", 3, ["one", "two"]),
        ("abcdefg", 3, ["abc", "def", "g"]),
        ("a bcdefg", 3, ["a", "bcd", "efg"]),
        ("灯太暗了", 5, ["灯太", "暗了"]),
        ("   abc", 3, ["", "abc"]),
        ("abc ", 3, ["abc"]),
    ],
)
def test_wrapping(text, width, lines):
    assert wrapped(text, width) == lines
