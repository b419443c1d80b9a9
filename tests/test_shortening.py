import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterllm_plugins.shortening import shorten


@pytest.mark.parametrize(
    ("text", "most", "kept"),
    [
        ("tea", 3, "tea"),
        ("teas", 3, "tea"),
        ("", 0, ""),
        ("tea", 0, ""),
        ("cafe\u0301s", 4, "caf"),
        ("cafe\u0301s", 5, "cafe\u0301"),
        ("a👩\u200d👩\u200d👧b", 4, "a"),
        ("a👍🏽b", 2, "a"),
        ("❤\ufe0fb", 2, "❤\ufe0f"),
        ("a❤\ufe0fb", 2, "a"),
        ("🇩🇪🇫🇷", 3, "🇩🇪"),
        ("🇩🇪🇫🇷", 2, "🇩🇪"),
        ("กำ", 1, "ก"),
        ("कि", 1, "कि"[:1]),
        ("a\r\nb", 2, "a"),
    ],
)
def test_a_text_is_cut_before_a_character_that_does_not_fit(text, most, kept):
    assert shorten(text, most) == kept


def test_a_letter_with_more_accents_than_any_language_has_is_cut():
    assert len(shorten("a" + "\u0301" * 5000, 2000)) == 2000


@settings(max_examples=50, deadline=None)
@given(st.text(), st.integers(0, 40))
def test_at_most_so_much_is_kept_and_little_is_lost(text, most):
    kept = shorten(text, most)
    assert text.startswith(kept)
    assert min(len(text), most) - 32 <= len(kept) <= most


@given(st.text("ab\u0301\u0302", max_size=60), st.integers(1, 20))
def test_no_accent_is_taken_from_its_letter(text, most):
    kept = shorten(text, most)
    assert kept == text or len(kept) == most or unicodedata.category(text[len(kept)])[0] != "M"
