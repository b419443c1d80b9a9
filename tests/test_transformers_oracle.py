"""A local model's answers and names, and what they take."""

import warnings

import pytest

torch = pytest.importorskip("torch", reason="the extra transformers is not installed")
transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")

import clusterllm_oracles  # noqa: E402
from asking_kit import ask  # noqa: E402
from clusterllm_plugins import ClusterLLM  # noqa: E402
from clusterllm_plugins.errors import ClusterLLMWarning  # noqa: E402
from clusterllm_plugins.plugins import Plugins  # noqa: E402
from clusterllm_plugins.prompts import render, render_description  # noqa: E402
from clusterllm_plugins.questions import pair_question, triplet_question  # noqa: E402
from clusterllm_plugins.testing import check_oracle  # noqa: E402
from local_model_kit import (  # noqa: E402
    LONGER,
    NONE_OF_THREE,
    ONE_OF_ELEVEN,
    QUESTIONS,
    START,
    TEXTS,
    TRIPLET,
    chat_start,
    failure,
    local,
    save_model,
)


@pytest.fixture(params=["chat", "plain"])
def folder(request):
    return request.getfixturevalue(request.param)


def chances_by_hand(folder, starts, replies):
    """Return the softmax of the log-probability of each reply's tokens, one forward pass a reply."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    scores = []
    for reply in replies:
        before = tokenizer(starts, add_special_tokens=False)["input_ids"]
        tokens = tokenizer(reply, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([before + tokens])).logits[0]
        following = logits[len(before) - 1 : -1].log_softmax(-1)
        scores.append(sum(following[place, token] for place, token in enumerate(tokens)))
    return torch.tensor(scores).softmax(0).tolist()


def test_it_keeps_the_contract(folder):
    check_oracle(lambda: local(folder, batch_size=3))


def test_it_is_found_by_name(chat):
    plugins = Plugins(discover=False)
    plugins.register(clusterllm_oracles, "builtin")
    oracle = plugins.oracle({"name": "transformers", "model": str(chat), "device": "cpu"})
    (answer,) = oracle.answer([TRIPLET])
    assert answer.choice in ("1", "2")


def test_the_confidence_is_the_softmax_of_the_model_s_logits(chat):
    (answer,) = local(chat).answer([TRIPLET])
    chances = chances_by_hand(chat, chat_start(TRIPLET), TRIPLET.choices)
    assert answer.choice == TRIPLET.choices[chances.index(max(chances))]
    assert answer.confidence == pytest.approx(max(chances), abs=1e-5)


def test_a_choice_of_several_tokens_is_scored_whole(chat):
    question = NONE_OF_THREE
    (answer,) = local(chat).answer([question])
    chances = chances_by_hand(chat, chat_start(question), question.choices)
    assert answer.choice == question.choices[chances.index(max(chances))]
    assert answer.confidence == pytest.approx(max(chances), abs=1e-5)


def test_where_a_choice_begins_with_another_the_end_is_scored_too(chat):
    (answer,) = local(chat).answer([ONE_OF_ELEVEN])
    chances = chances_by_hand(chat, chat_start(ONE_OF_ELEVEN), [f"{choice}<|end|>" for choice in ONE_OF_ELEVEN.choices])
    assert answer.choice == ONE_OF_ELEVEN.choices[chances.index(max(chances))]
    assert answer.confidence == pytest.approx(max(chances), abs=1e-5)


def test_a_model_without_a_chat_template_continues_the_prompt(plain):
    (answer,) = local(plain).answer([TRIPLET])
    start = f"{START}{render(TRIPLET)}\n\nAnswer:"
    chances = chances_by_hand(plain, start, [f" {choice}" for choice in TRIPLET.choices])
    assert answer.confidence == pytest.approx(max(chances), abs=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_size_of_the_batch_changes_no_answer(folder, size):
    together = list(local(folder).answer(QUESTIONS))
    oracle = local(folder)
    apart = [
        answer for start in range(0, len(QUESTIONS), size) for answer in oracle.answer(QUESTIONS[start : start + size])
    ]
    assert [answer.choice for answer in apart] == [answer.choice for answer in together]
    assert [answer.usage for answer in apart] == [answer.usage for answer in together]
    confidences = [answer.confidence for answer in together]
    assert [answer.confidence for answer in apart] == pytest.approx(confidences, abs=1e-5)


def test_a_batch_is_one_forward_pass(chat):
    oracle = local(chat)
    shapes = []
    oracle._local.model.register_forward_pre_hook(
        lambda _, args, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    list(oracle.answer([TRIPLET, LONGER]))
    assert [rows for rows, _ in shapes] == [2]  # one-token choices need no row of their own


def test_answers_differ_with_the_question(chat):
    questions = [
        triplet_question(TEXTS, a, b, c) for a, b, c in [(0, 1, 2), (3, 4, 5), (6, 7, 8), (2, 8, 4), (5, 0, 7)]
    ]
    confidences = {round(answer.confidence, 6) for answer in local(chat).answer(questions)}
    assert len(confidences) == len(questions)


def test_tokens_are_counted_and_cost_nothing(chat):
    (answer,) = local(chat).answer([TRIPLET])
    tokenizer = transformers.AutoTokenizer.from_pretrained(chat)
    read = len(tokenizer(chat_start(TRIPLET), add_special_tokens=False)["input_ids"])
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (read, 1)
    assert (answer.usage.requests, answer.usage.cost) == (1, 0.0)


def test_an_answer_counts_with_all_its_tokens(chat):
    completion = local(chat).complete("Which?", ("abcdefgh", "xyz"))  # the toy tokenizer knows letters only
    assert (completion.text, completion.usage.output_tokens) == ("xyz", 3)


def test_caps_hold(chat, open_session):
    oracle = local(chat, batch_size=2)
    most = sum(oracle.worst_case(question).tokens for question in QUESTIONS[:2])
    session = open_session(oracle, max_tokens=most, max_cost=0.0)
    ask(session, QUESTIONS)
    assert 0 < session.tally.asked < len(QUESTIONS)
    assert session.usage.tokens <= most
    assert session.usage.cost == 0.0


def test_what_a_text_may_cost_grows_with_its_bytes(chat):
    worst = [local(chat).worst_case(pair_question(["a", text], 0, 1)) for text in ("b", "bb", "é" * 2)]
    assert [usage.input_tokens - worst[0].input_tokens for usage in worst] == [0, 1, 3]


def test_what_a_template_adds_is_a_part_of_the_worst_case(tmp_path):
    template = "{{ 'Be 很短。' * 99 }}{% for message in messages %}{{ message.content }}\n{% endfor %}"
    oracle = local(save_model(tmp_path, template=template))
    question = pair_question(["我的灯不亮" * 30, "坏了" * 30], 0, 1)
    (answer,) = oracle.answer([question])
    assert answer.usage.input_tokens <= oracle.worst_case(question).input_tokens


def test_a_question_that_is_too_long_is_cut_with_one_warning(chat):
    texts = ["the kettle leaks " * 60, "water drips " * 90, "dark"]
    questions = [triplet_question(texts, 0, 1, 2), triplet_question(texts, 1, 0, 2)]
    oracle = local(chat, max_length=600)
    message = "longer than 600 tokens; their texts are cut, the first one's to \\d+ characters"
    with pytest.warns(ClusterLLMWarning, match=message) as seen:
        answers = list(oracle.answer(questions))
    assert len([warning for warning in seen if warning.category is ClusterLLMWarning]) == 1
    assert all(answer.choice for answer in answers)
    assert 550 < max(answer.usage.tokens for answer in answers) <= 600


def test_a_question_that_fits_is_not_cut(chat):
    (whole,) = local(chat).answer([TRIPLET])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ClusterLLMWarning)
        (answer,) = local(chat, max_length=whole.usage.tokens).answer([TRIPLET])
    assert answer == whole


def test_the_limit_of_the_model_holds(tmp_path):
    folder = save_model(tmp_path, kind="gpt2", longest=500)
    with pytest.warns(ClusterLLMWarning, match="longer than 500 tokens"):
        (answer,) = local(folder, max_length=9000).answer([triplet_question(["kettle " * 200, "a", "b"], 0, 1, 2)])
    assert answer.choice in ("1", "2")


def test_what_cannot_be_cut_enough_abstains(chat):
    oracle = local(chat, max_length=40)
    (answer,) = oracle.answer([TRIPLET])
    assert answer.choice is None
    assert answer.error == "does not fit into 40 tokens, however short its texts are cut"
    assert "set max_length higher" in str(failure(lambda: oracle.describe(TEXTS)))


def test_a_name_is_written(folder):
    oracle = local(folder, max_output_tokens=7)
    completion = oracle.describe(TEXTS)
    worst = oracle.worst_case_of(render_description(TEXTS))
    assert completion.text
    assert 1 <= completion.usage.output_tokens <= 7 == worst.output_tokens
    assert 0 < completion.usage.input_tokens <= worst.input_tokens
    assert completion.usage.cost == 0.0
    assert oracle.describe(TEXTS) == completion


def test_a_name_has_room_behind_the_longest_prompt(tmp_path):
    oracle = local(save_model(tmp_path, kind="gpt2", longest=300))
    with pytest.warns(ClusterLLMWarning, match="longer than 300 tokens"):
        completion = oracle.describe(["the kettle leaks " * 40])
    assert 260 < completion.usage.input_tokens <= 300 - oracle.max_output_tokens


def test_one_completion_answers_as_a_batch_does(chat):
    oracle = local(chat)
    (answer,) = oracle.answer([TRIPLET])
    completion = oracle.complete(render(TRIPLET), TRIPLET.choices)
    assert (completion.text, completion.usage) == (answer.choice, answer.usage)
    assert completion.confidence == pytest.approx(answer.confidence)


def test_bf16_answers_too(chat):
    oracle = local(chat, precision="bf16")
    answers = list(oracle.answer(QUESTIONS))
    assert oracle._local.model.dtype == torch.bfloat16
    assert all(answer.choice in question.choices for question, answer in zip(QUESTIONS, answers, strict=True))


def test_a_whole_fit_asks_it(chat, texts, tmp_path):
    settings = {
        "embedder": {"name": "lsa", "dimensions": 8},
        "oracle": {"name": "transformers", "model": str(chat), "device": "cpu", "batch_size": 4},
        "n_clusters": 3,
        "max_questions": 12,
        "max_cost": 0.01,
        "store": str(tmp_path / "answers.sqlite"),
        "progress": False,
    }
    model = ClusterLLM(**settings).fit(texts)
    assert len(model.labels_) == len(texts)
    assert model.report_["questions"]["asked"] == len(model.questions_) > 0
    assert all(0 <= answer.confidence <= 1 for answer in model.answers_)
    assert model.usage_.cost == 0.0
    again = ClusterLLM(**settings).fit(texts)
    assert again.report_["questions"]["asked"] == 0
    assert again.labels_.tolist() == model.labels_.tolist()
