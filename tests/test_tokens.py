"""The estimate of tokens against counts of real tokenizers, recorded with the versions that gave them."""

import json
from pathlib import Path

import pytest

from clusterllm_plugins.tokens import estimate_tokens

SENTENCES = json.loads((Path(__file__).parent / "token_counts.json").read_text(encoding="utf-8"))["sentences"]


def ratio(tokenizer, languages=None):
    chosen = [record for record in SENTENCES if languages is None or record["language"] in languages]
    return sum(estimate_tokens(record["text"]) for record in chosen) / sum(record[tokenizer] for record in chosen)


def test_the_estimate_is_within_a_tenth_in_sum_over_languages():
    assert ratio("o200k_base") == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("tokenizer", ["o200k_base", "cl100k_base"])
def test_the_estimate_of_english_is_within_a_tenth(tokenizer):
    assert ratio(tokenizer, {"en"}) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("language", sorted({record["language"] for record in SENTENCES}))
def test_no_language_is_far_off(language):
    assert 0.7 < ratio("o200k_base", {language}) < 1.35


@pytest.mark.parametrize(
    ("text", "tokens"), [("", 0), ("tea", 1), ("1234567", 3), ("I'm", 2), ("a\n\nb", 3), ("???", 1)]
)
def test_pieces_are_counted_as_tokenizers_cut_them(text, tokens):
    assert estimate_tokens(text) == tokens


@pytest.mark.parametrize("word", ["counterintuitiveness", "Wuthering", "REFUNDED", "Rückerstattung", "возвращение"])
def test_a_rare_word_has_several_tokens(word):
    assert estimate_tokens(f"{word} {word}") >= 3
