"""docs/replies.md: every reply of its tables is read as the table says."""

import pytest

from clusterllm_plugins.replies import parse
from reply_kit import KINDS, PAGE, PAIR, SIX, TWO, said, table

ROWS = table()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: repr(row[1])[:60])
def test_reply_is_read_as_the_page_says(row):
    choices, reply, _, read = row
    assert parse(reply, choices) == read


def test_nothing_is_read_that_a_person_would_not_read_so():
    assert [reply for _, reply, person, read in ROWS if read not in (person, None)] == []


def test_the_page_has_borderline_replies_of_every_kind():
    counts = {title: sum(row[0] == choices for row in ROWS) for title, choices in KINDS.items()}
    assert min(counts.values()) >= 40


def test_every_row_of_the_page_is_read():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert len(ROWS) == sum(line.startswith("| `") for line in lines)


@pytest.mark.parametrize("choices", [TWO, SIX, PAIR])
def test_what_models_say_is_read(choices):
    assert [(reply, parse(reply, choices)) for reply, _ in said(choices)] == list(said(choices))
