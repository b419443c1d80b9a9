"""``council``: several oracles vote, or are asked in turn."""

import json
from contextlib import ExitStack

import pytest
from typer.testing import CliRunner

from asking_kit import QUESTIONS, SPENT, Metered, Scripted, ask, errors, failing_at, in_turn
from clusterllm_oracles import council
from clusterllm_oracles.council import CouncilOracle
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_plugins import Plugins
from clusterllm_plugins.cli import app
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.protocols import has_methods
from clusterllm_plugins.questions import Answer, Completion, OracleError, Usage, triplet_question
from clusterllm_plugins.testing import TEXTS as SAMPLES
from clusterllm_plugins.testing import check_oracle
from provider_kit import serving

PAIR = QUESTIONS[0]
TRIPLET = triplet_question(["kettle", "teapot", "bicycle"], 0, 1, 2)
BUSY = OracleError("busy", retryable=True)


def saying(reply, **attributes):
    return Scripted(lambda question: reply, **attributes)


def sure(choice, confidence):
    return Answer(choice, confidence, SPENT)


def vote(*replies, question=PAIR, **settings):
    (answer,) = CouncilOracle([saying(reply) for reply in replies], **settings).answer([question])
    return answer


def cascade(*replies, question=PAIR, **settings):
    """Return the answer, and how many members were asked."""
    members = [saying(reply) for reply in replies]
    (answer,) = CouncilOracle(members, mode="cascade", **settings).answer([question])
    return answer, sum(len(member.asked) for member in members)


@pytest.fixture
def servers(monkeypatch):
    """Return a function that starts a server with a reply."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        yield lambda reply: stack.enter_context(serving(reply))


def at(server, **settings):
    return {"name": "openai", "model": "acorn", "base_url": server.url, "api_key_env": "", **settings}


# --- a vote ----------------------------------------------------------------------------------------------------


def test_the_majority_wins():
    assert vote("no", "yes", "no").choice == "no"


def test_the_confidence_is_the_share_of_the_weight():
    assert vote("no", "yes", "no").confidence == pytest.approx(2 / 3)


def test_what_abstained_supports_nothing():
    answer = vote("no", None, None)
    assert (answer.choice, answer.confidence) == ("no", pytest.approx(1 / 3))


def test_a_tie_abstains():
    answer = vote("no", "yes")
    assert (answer.choice, answer.confidence, answer.error) == (None, None, "no choice has the most weight")


def test_sums_that_differ_by_rounding_only_are_a_tie():
    assert vote("yes", "yes", "no", weights=[0.1, 0.2, 0.3]).choice is None


def test_where_all_abstain_the_first_reason_is_told():
    answer = vote(None, Answer(None, error="unreadable reply: '?'"))
    assert (answer.choice, answer.error) == (None, "all members abstained: unreadable reply: '?'")


def test_a_weight_can_outvote_the_others():
    answer = vote("no", "yes", "no", weights=[1, 3, 1])
    assert (answer.choice, answer.confidence) == ("yes", pytest.approx(0.6))


def test_a_member_without_weight_decides_nothing():
    assert vote("no", "yes", weights=[0, 1]).choice == "yes"


def test_an_inadmissible_choice_counts_as_an_abstention():
    assert vote("2", "2", "yes").choice == "yes"


def test_the_usage_is_that_of_all_members():
    assert vote("yes", "no", None).usage == Usage(30, 3, 3)


def test_the_cost_is_the_sum_where_all_are_known():
    priced = [Answer("yes", usage=Usage(1, 1, 1, cost)) for cost in (0.25, 0.5)]
    assert (vote(*priced).usage.cost, vote(*priced, "yes").usage.cost) == (0.75, None)


def test_the_votes_of_members_can_be_read():
    assert list(vote("yes", None, "no", question=PAIR).votes.values()) == ["yes", None, "no"]


# --- a cascade -------------------------------------------------------------------------------------------------


def test_a_cascade_asks_no_further_where_the_first_is_sure():
    assert cascade(sure("yes", 0.8), "no", threshold=0.8) == (Answered("yes", 0.8), 1)


def test_a_cascade_asks_on_below_the_threshold():
    assert cascade(sure("yes", 0.79), sure("no", 0.9), threshold=0.8) == (Answered("no", 0.9), 2)


def test_a_cascade_asks_on_where_one_abstains():
    assert cascade(None, None, "no", "yes") == (Answered("no", None), 3)


def test_a_member_that_states_no_confidence_is_sure():
    assert cascade("yes", "no")[1] == 1


def test_the_last_member_that_chose_counts():
    assert cascade(sure("yes", 0.3), sure("no", 0.2), None)[0] == Answered("no", 0.2)


def test_a_cascade_in_which_all_abstain_abstains():
    assert cascade(None, None)[0].error == "all members abstained"


def test_a_cascade_sums_what_the_asked_members_took():
    assert cascade(None, "no", "yes")[0].usage == Usage(20, 2, 2)


def test_a_council_may_be_the_first_of_a_cascade():
    split, united = CouncilOracle([saying("yes"), saying("no")]), CouncilOracle([saying("yes"), saying("yes")])
    judge = saying("no")
    answers = [next(CouncilOracle([first, judge], mode="cascade").answer([PAIR])) for first in (split, united)]
    assert ([answer.choice for answer in answers], len(judge.asked)) == (["no", "yes"], 1)


class Answered:
    def __init__(self, choice, confidence):
        self.seen = (choice, confidence)

    def __eq__(self, answer):
        return (answer.choice, answer.confidence) == self.seen

    __hash__ = None


def test_the_dear_model_is_asked_only_where_the_cheap_one_cannot_be_read(servers, open_session):
    cheap = servers(lambda prompt: "hard to say" if '"note 3"' in prompt else "no")
    dear = servers("yes")
    oracle = CouncilOracle([at(cheap), at(dear)], mode="cascade")
    answers = ask(open_session(oracle), QUESTIONS[:10])
    assert [answer.choice for answer in answers] == ["no"] * 2 + ["yes"] * 2 + ["no"] * 6
    assert (len(cheap.prompts), len(dear.prompts)) == (10, 2)


# --- failures --------------------------------------------------------------------------------------------------


def test_no_member_is_asked_twice_since_another_one_failed(open_session):
    before, after = saying("yes"), saying("yes")
    failing = Scripted(in_turn(BUSY, BUSY, "no"), max_retries=2)
    (answer,) = ask(open_session(CouncilOracle([before, failing, after])), [PAIR])
    assert (answer.choice, len(before.asked), len(failing.asked), len(after.asked)) == ("yes", 1, 3, 1)


def test_no_answered_model_is_paid_again_for_anothers_outage(servers, open_session):
    left = [(503, "later"), (429, "slower"), "no"]
    steady, shaky = servers("no"), servers(lambda prompt: left.pop(0) if len(left) > 1 else left[0])
    ask(open_session(CouncilOracle([at(steady, concurrency=1), at(shaky, concurrency=1)])), QUESTIONS[:5])
    assert (len(steady.prompts), len(shaky.prompts)) == (5, 7)


def test_each_member_has_its_own_retries(open_session):
    members = [Scripted(in_turn(BUSY, BUSY, "yes"), max_retries=2) for _ in range(3)]
    (answer,) = ask(open_session(CouncilOracle(members)), [PAIR])
    assert answer.choice == "yes"


def test_a_member_that_fails_for_all_its_retries_fails_the_question(open_session, store):
    members = [Scripted(lambda question: BUSY, max_retries=1), saying("yes", max_retries=9)]
    session = open_session(CouncilOracle(members))
    (answer,) = ask(session, [PAIR])
    assert (answer.error, session.tally.failed, list(store)) == ("busy", 1, [])
    assert len(members[0].asked) == 2


def test_what_the_others_said_is_kept_for_a_later_asking(open_session):
    first, second = saying("yes"), Scripted(in_turn(BUSY, "yes"), max_retries=0)
    oracle = CouncilOracle([first, second])
    assert [ask(open_session(oracle), [PAIR])[0].choice for _ in range(2)] == [None, "yes"]
    assert (len(first.asked), len(second.asked)) == (1, 2)


def test_only_so_much_is_kept(open_session, monkeypatch):
    monkeypatch.setattr(council, "MOST_KEPT", 3)
    members = [saying("yes"), Scripted(lambda question: OracleError("no"), max_retries=0)]
    oracle = CouncilOracle(members)
    ask(open_session(oracle), QUESTIONS[:8])
    assert len(oracle._kept) == 3


def test_nothing_is_kept_of_what_is_done(open_session):
    oracle = CouncilOracle([Scripted(in_turn("yes", BUSY, "yes")), Scripted(in_turn(BUSY, "yes", "yes"))])
    ask(open_session(oracle), QUESTIONS[:2])
    assert not oracle._kept


def test_a_failure_is_no_abstention_in_a_cascade(open_session):
    dear = saying("yes")
    oracle = CouncilOracle([Scripted(lambda question: OracleError("too long")), dear], mode="cascade")
    assert (errors(ask(open_session(oracle), [PAIR])), dear.asked) == (["too long"], [])


@pytest.mark.parametrize("mode", ["vote", "cascade"])
def test_a_fatal_error_of_a_member_stops_the_run(open_session, mode):
    members = [saying(None), saying(OracleError("wrong key", fatal=True))]
    with pytest.raises(OracleError, match="wrong key"):
        ask(open_session(CouncilOracle(members, mode=mode)), QUESTIONS[:5])
    assert len(members[0].asked) == 1


def test_a_member_that_gives_too_few_answers_fails_the_question(open_session):
    class Short(Scripted):
        def answer(self, questions):
            return []

    answers = ask(open_session(CouncilOracle([saying("yes"), Short()])), [PAIR])
    assert errors(answers) == ["oracle 'council', member 2: fewer answers than questions"]


def test_questions_of_a_batch_that_are_done_are_answered_before_a_failure(open_session, store):
    members = [saying("yes", batch_size=4), Scripted(failing_at({2: OracleError("no")}), batch_size=4)]
    answers = ask(open_session(CouncilOracle(members)), QUESTIONS[:4])
    assert ([answer.choice for answer in answers], len(list(store))) == (["yes", "yes", None, None], 2)


# --- what the session reads --------------------------------------------------------------------------------------


def test_no_member_gets_more_at_once_than_it_allows():
    small = saying("yes", batch_size=2, concurrency=3, requests_per_minute=60, tokens_per_minute=900)
    large = saying("yes", batch_size=9, concurrency=8, requests_per_minute=10)
    oracle = CouncilOracle([small, large])
    assert (oracle.batch_size, oracle.concurrency) == (2, 3)
    assert (oracle.requests_per_minute, oracle.tokens_per_minute) == (10, 900)


def test_without_limits_there_are_none():
    oracle = CouncilOracle([saying("yes"), saying("yes")])
    assert (oracle.requests_per_minute, oracle.tokens_per_minute, oracle.uses_indices) == (None, None, False)


def test_indices_count_where_they_do_for_a_member():
    assert CouncilOracle([saying("yes"), saying("yes", uses_indices=True)]).uses_indices


def test_notes_of_members_reach_the_report():
    members = [saying("yes", note="simulated"), saying("yes"), saying("yes", note="simulated")]
    assert CouncilOracle(members).note == "simulated"


@pytest.mark.parametrize("mode", ["vote", "cascade"])
def test_the_worst_case_is_that_of_all_members(mode):
    members = [Metered(Usage(30, 3, 1, 0.5)), Metered(Usage(40, 4, 1, 0.25))]
    assert CouncilOracle(members, mode=mode).worst_case(PAIR) == Usage(70, 7, 2, 0.75)


def test_a_member_without_a_worst_case_allows_no_cap(open_session):
    with pytest.raises(ClusterLLMError, match="CouncilOracle does not: cap max_questions instead"):
        open_session(CouncilOracle([Metered(Usage(1, 1)), saying("yes")]), max_tokens=10)


@pytest.mark.parametrize("cap", [{"max_tokens": 2000}, {"max_cost": 0.002}])
def test_a_cap_holds_by_the_servers_own_count(servers, open_session, cap):
    running = [servers("yes"), servers(lambda prompt: (503, "later") if len(prompt) % 2 else "no"), servers("yes")]
    members = [at(server, input_price=1.0, output_price=1.0) for server in running]
    session = open_session(CouncilOracle(members), **cap)
    answers = ask(session, QUESTIONS)
    tokens = 51 * sum(len(server.prompts) for server in running)
    assert 0 < tokens <= min(cap.get("max_tokens", 2000), 1e6 * cap.get("max_cost", 1))
    assert any("not asked" in (error or "") for error in errors(answers))


class Writer(Metered):
    def describe(self, texts):
        return Completion(f"about {texts[0]}", SPENT)

    def worst_case_of(self, prompt):
        return Usage(5, 5, 1)


def test_the_first_member_that_can_writes_names():
    oracle = CouncilOracle([saying("yes"), Writer(SPENT), Writer(SPENT)])
    assert (oracle.describe(["tea"]).text, oracle.worst_case_of("?")) == ("about tea", Usage(5, 5, 1))


def test_where_no_member_can_write_the_council_cannot():
    assert not has_methods(CouncilOracle([saying("yes"), saying("yes")]), "describe")


def test_members_are_prepared_and_checked():
    class Careful(Scripted):
        def prepare(self, texts, embeddings):
            self.prepared = list(texts)

        def check(self):
            raise OracleError("no key", fatal=True)

    member = Careful()
    oracle = CouncilOracle([saying("yes"), member])
    oracle.prepare(["a", "b"], None)
    with pytest.raises(OracleError, match="no key"):
        oracle.check()
    assert member.prepared == ["a", "b"]


# --- settings ----------------------------------------------------------------------------------------------------

SIMULATED = [{"name": "simulated", "labels": ["a", "b"], "seed": seed} for seed in range(3)]
BASE = {"members": SIMULATED}


@pytest.mark.parametrize(
    "changed",
    [
        {"members": SIMULATED[:2]},
        {"members": SIMULATED[::-1]},
        {"members": [*SIMULATED[:2], SIMULATED[2] | {"seed": 9}]},
        {"weights": [1, 1, 2]},
        {"mode": "cascade"},
        {"mode": "cascade", "threshold": 0.5},
    ],
)
def test_the_fingerprint_names_members_mode_weights_and_threshold(changed):
    made = [CouncilOracle(**settings).fingerprint for settings in (BASE, BASE | changed, {"mode": "cascade"} | BASE)]
    assert made[0] != made[1]
    assert made[1] != made[2] or changed == {"mode": "cascade"}


def test_equal_weights_are_as_none_given():
    assert CouncilOracle(**BASE, weights=[1, 1, 1]).fingerprint == CouncilOracle(**BASE).fingerprint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"members": "openai"}, "members must be a list of oracles, not str"),
        ({"members": ["openai"]}, "members must be two oracles or more, not 1"),
        ({"mode": "votes"}, "mode is one of vote, cascade, not 'votes'"),
        ({"weights": [1, 2]}, "weights must be 3 numbers of at least 0, not all 0, or 'estimated', not [1, 2]"),
        ({"weights": [0, 0, 0]}, "weights must be 3 numbers"),
        ({"weights": [1, -1, 1]}, "weights must be 3 numbers"),
        ({"weights": "learnt"}, "weights must be 3 numbers"),
        ({"weights": "estimated"}, "weights = 'estimated' and votes go together"),
        ({"votes": "log.jsonl"}, "weights = 'estimated' and votes go together"),
        ({"mode": "cascade", "weights": [1, 1, 1]}, "weights and votes are for mode 'vote'"),
        ({"mode": "cascade", "threshold": 1.5}, "threshold must be in [0, 1], not 1.5"),
        ({"mode": "cascade", "threshold": "high"}, "threshold must be in [0, 1], not 'high'"),
    ],
)
def test_a_setting_without_meaning_is_an_error(settings, message):
    with pytest.raises(ClusterLLMError) as caught:
        CouncilOracle(**BASE | settings)
    assert str(caught.value).startswith(f"oracle 'council': {message}")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("openia", "unknown oracle 'openia'; did you mean 'openai'?"),
        ({"name": "openai", "modl": "gpt"}, "oracle 'openai' has no setting 'modl'; did you mean 'model'?"),
        ({"model": "gpt"}, "oracle with the settings model has no name"),
        (object(), "oracle 'object': object has no method answer(questions)"),
    ],
)
def test_a_member_that_cannot_be_made_is_told_with_its_number(member, message):
    with pytest.raises(ClusterLLMError) as caught:
        CouncilOracle([SIMULATED[0], member])
    assert str(caught.value).startswith(f"oracle 'council', member 2: {message}")


@pytest.mark.parametrize("member", ["sk-abcdefgh12345678", {"name": "openai", "model": "sk-abcdefgh12345678"}])
@pytest.mark.parametrize(
    "make", [CouncilOracle, lambda members: Plugins().oracle({"name": "council", "members": members})]
)
def test_a_key_among_the_members_is_refused_and_not_repeated(member, make):
    with pytest.raises(ClusterLLMError, match="looks like a key") as caught:
        make([SIMULATED[0], member])
    assert "sk-abc" not in str(caught.value)


def test_making_a_council_sends_nothing(servers):
    server = servers("yes")
    CouncilOracle([at(server), at(server)])
    assert server.prompts == []


@pytest.mark.parametrize("settings", [{}, {"weights": [3, 1]}, {"mode": "cascade"}])
def test_it_keeps_the_contract_of_an_oracle(servers, settings):
    running = [servers(lambda prompt: "yes" if "yes" in prompt else "1"), servers("no way")]
    members = [at(server, input_price=1.0, output_price=2.0) for server in running]
    check_oracle(lambda: CouncilOracle(members, **settings))


def test_members_may_be_oracles_of_all_kinds(servers):
    simulated = {"name": "simulated", "labels": list(SAMPLES), "profile": "uniform"}
    oracle = CouncilOracle([OpenAIOracle("acorn", servers("1").url, api_key_env=None), simulated, saying("1")])
    assert next(oracle.answer([TRIPLET])).choice == "1"


def clusterllm(folder, *arguments):
    """Run the command on a few texts."""
    texts = ["tea with milk", "black tea", "a pot of tea", "a flat tyre", "the chain came off", "pump up the tyres"]
    (folder / "texts.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts), encoding="utf-8")
    options = ["--embedder", "lsa", "--n-clusters", "2", "--method", "paper", "--max-questions", "6"]
    command = ["cluster", str(folder / "texts.jsonl"), "-o", str(folder / "out"), *options, *arguments]
    return CliRunner().invoke(app, command)


def test_a_config_has_a_table_for_each_member(servers, tmp_path):
    running = [servers("1"), servers("2"), servers("2")]
    tables = "".join(
        f"[[oracle.members]]\nname = 'openai'\nbase_url = '{server.url}'\napi_key_env = ''\n" for server in running
    )
    (tmp_path / "config.toml").write_text(
        f"[oracle]\nname = 'council'\nweights = [1, 1, 3]\n{tables}", encoding="utf-8"
    )
    done = clusterllm(tmp_path, "-c", str(tmp_path / "config.toml"))
    assert (done.exit_code, [len(server.prompts) for server in running]) == (0, [6, 6, 6])
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["usage"]["requests"] == 18


def test_members_can_be_set_at_a_shell(servers, tmp_path):
    cheap, dear = servers("hard to say"), servers("2")
    members = json.dumps([at(cheap), at(dear)])
    done = clusterllm(
        tmp_path, "--oracle", "council", "--set", f"oracle.members={members}", "--set", "oracle.mode=cascade"
    )
    assert (done.exit_code, len(cheap.prompts), len(dear.prompts)) == (0, 6, 6)


def test_a_wrong_member_is_one_line_and_code_2(tmp_path):
    done = clusterllm(tmp_path, "--oracle", "council", "--set", 'oracle.members=["openia", "openai"]')
    assert done.exit_code == 2
    assert done.stderr.startswith("error: oracle 'council', member 1: unknown oracle 'openia'; did you mean 'openai'?")


def test_it_is_found_by_name_with_members_as_in_a_config():
    oracle = Plugins().oracle(json.loads(json.dumps({"name": "council", **BASE, "mode": "cascade", "threshold": 0.7})))
    assert (type(oracle), len(oracle.members)) == (CouncilOracle, 3)
