"""The built-in redactors, by name as a user sets them. All people, addresses and numbers here are made up."""

import re
import time

import pytest

from clusterllm_plugins.components import resolve_redaction
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.plugins import Plugins

EMAILS = """
ada@example.com
ada.quill@example.co.uk
ada+orders@example.org
a_quill-7@mail.example.museum
ADA.QUILL@EXAMPLE.COM
o'quill@example.com
jürgen@bücher.example
ada@localhost
"ada quill"@example.com
ada@[203.0.113.9]
ada @ example.com
ada＠example.com
ada%40example.com
ada (at) example.com
ada [at] example [dot] com
ada{at}example{dot}com
ada at example dot com
ada at mail.example dot com
<ada@example.com>
mailto:ada@example.com
ada+tag@mail.shop.example.co.uk
ада@почта.example
ada@例え。jp
ada\u200b@exam\u200bple.com
ada\\@example.com
ada&#64;example.com
ada&commat;example.com
ada -at- example -dot- com
ada @ mail.example.com
12345@163.example
""".splitlines()[1:]

PHONES = """
+44 20 7946 0958
+44 (0)20 7946 0958
+1-202-555-0143
+1 (202) 555-0143
(202) 555-0143
202.555.0143
202-555-0143
555-0143
5550143
0044 20 79460958
+49 30 23125-123
030/23125123
06 12 34 56 78
06.12.34.56.78
+442079460958
+44\u00a020\u00a07946\u00a00958
202\u2011555\u20110143
+44\u200b2079\u200b460958
０２０７９４６０９５８
（202）555－0143
202·555·0143
202_555_0143
202~555~0143
2️⃣0️⃣2️⃣5550143
202-555-0143 ext. 22
202-555-0143, extension 22
202-555-0143 x22
202-555-0143 #22
1-800-FLOWERS
+1 800 CALLNOW
1-800-555-HELP
(800) FLOWERS
0800 REVERSE
0171 2345678 0172 3456789
""".splitlines()[1:]

CARDS = """
4111 1111 1111 1111
4111-1111-1111-1111
4111111111111111
4111.1111.1111.1111
4111\u20091111\u20091111\u20091111
4111  1111  1111  1111
3782 822463 10005
6011 0009 9013 9424
4111 1111 1111 1112
€4111111111111111
DE89 3704 0044 0532 0130 00
DE89370400440532013000
de89370400440532013000
GB29 NWBK 6016 1331 9268 19
gb29nwbk60161331926819
FR14 2004 1010 0505 0001 3M02 606
NO93 8601 1117 947
MT84 MALT 0110 0001 2345 MTLC AST0 01S
account 70872490
123-45-6789
4111_1111_1111_1111
DE89  3704  0044  0532  0130  00
DE89–3704–0044–0532–0130–00
GB29_NWBK_6016_1331_9268_19
BR15 0000 0000 0000 1093 2840 814 P2
KW81 CBKU 0000 0000 0000 1234 5601 01
""".splitlines()[1:]

KEPT = [
    "on 2024-03-05 at 14:30 and on 2024/03/06",
    "since 5.12.2024, not 12/05/2024 09:15",
    "from 2019-2020 or 1998 to 2003",
    "it costs $1,234.56 and not 1.234.567,00 €",
    "USD 2500000 or 12 345 678 EUR, less 15.5%",
    "order NH-52008, 3 boxes of 12, 189.00 each",
    "room 12, floor 3, open 9:00-17:00",
    "15 months, 2.5 kg, 40x60x80 cm, version 3.11.7",
    "look at example.com, @ada, meet at noon",
    "bus 747 leaves at 10:45, platform 9",
    "lunch @ noon, 2 @ 5.00 each or 3@9.99",
    "on 05/12/24 10:30 sharp, on 5.12.24 at 9:15",
    "2024-03-05T14:30:00Z, build 4021, v2024.10.1",
    "12 * 34 = 408, (12 + 7) / 3, 3.14159",
    "1998-2003, 2010-2012 and the season 2019/20",
    "from 10.0.0.12, port 8080",
    "pages 12-14 and 102-118, chapter 3.2.1",
    "1920x1080 on A4, 210 x 297 mm",
    "1,234,567 people, 24/7, in 48 to 72 hours",
    "order 123456 and order A-2024-17",
    "we need 800 CRATES now, on bus 855-N",
    "arrive - at - noon",
    "score 3-2, 4-1, temperature -12.5 to -8.0",
]
# What nobody would call a phone number, but could be one by its digits alone.
LOST = {
    "ISBN 978-3-16-148410-0": "ISBN [phone]",
    "order 1234567": "order [phone]",
    "pages 1024-1048": "pages [phone]",
    "1 234 567 people": "[phone] people",
    "from 192.168.100.12": "from [phone]",
    "0.000012": "[phone]",
}


def redact(text, *specs):
    return resolve_redaction(Plugins(), specs).text(text)


@pytest.mark.parametrize("email", EMAILS)
def test_of_an_email_address_nothing_stays(email):
    redacted = redact(f"Please write to {email}, thanks", "emails")
    assert re.fullmatch(r"Please write to (<|mailto:)?\[email\]>?, thanks", redacted)


@pytest.mark.parametrize("phone", PHONES)
def test_of_a_phone_number_nothing_stays(phone):
    assert redact(f"Please ring {phone}, thanks", "phones") == "Please ring [phone], thanks"


@pytest.mark.parametrize("card", CARDS)
def test_of_a_card_or_account_no_digit_stays(card):
    redacted = redact(f"Please take {card}, thanks", "numbers")
    assert re.fullmatch(r"Please take (€|account )?\[number\], thanks", redacted)


@pytest.mark.parametrize("text", KEPT)
def test_dates_prices_and_short_numbers_stay(text):
    assert redact(text, "emails", "numbers", "phones") == text


@pytest.mark.parametrize("text", LOST)
def test_where_a_number_may_be_someones_it_goes(text):
    assert redact(text, "emails", "phones", "numbers") == LOST[text]


@pytest.mark.parametrize("email", ["ada.5550143@example.com", "ada@5550143.example", "ada@[203.0.113.99]"])
@pytest.mark.parametrize("first", ["phones", "numbers"])
def test_an_address_goes_whole_where_its_digits_went_first(email, first):
    assert redact(f"write to {email}, thanks", first, "emails") == "write to [email], thanks"


@pytest.mark.parametrize("card", ["4111 1111\n1111 1111", "4111-1111-1111-\n1111", "4111 1111 1111\r\n1111"])
def test_a_card_goes_whole_where_a_line_break_cuts_it(card):
    assert redact(f"take {card}, thanks", "numbers") == "take [number], thanks"


def test_four_numbers_below_each_other_are_no_card():
    assert redact("2019\n2020\n2021\n2023", "numbers") == "2019\n2020\n2021\n2023"


@pytest.mark.parametrize("order", [("emails", "phones", "numbers"), ("numbers", "phones", "emails")])
def test_in_any_order_no_canary_is_left(order):
    text = " ; ".join([*EMAILS, *PHONES, *CARDS])
    redacted = redact(text, *order)
    assert not re.search(r"\d{3}|quill|ada\b.*example", redacted)


def test_numbers_leaves_phone_numbers_to_phones():
    assert redact("ring 202-555-0143", "numbers") == "ring 202-555-0143"


def test_a_line_break_ends_a_number():
    assert redact("gate 12\n5550143\n12 crates", "phones") == "gate 12\n[phone]\n12 crates"


@pytest.mark.parametrize("name", ["emails", "phones", "numbers"])
@pytest.mark.parametrize(
    "part",
    [
        "a",
        "1",
        "1 ",
        "a.b ",
        "(+",
        "DE12 ",
        "a at ",
        "a@",
        "1-",
        "DE12A1",
        "%40",
        '"',
        "(",
        "[phone]",
        "[phone] x",
        "4111 ",
        "4111\n",
        "800-A",
        "a@b.",
        "a @ b.",
        "-at-",
        "DE12 ABCD ",
    ],
)
def test_time_grows_with_the_length_of_a_text_and_no_faster(name, part):
    started = time.perf_counter()
    redact(part * (50_000 // len(part)), name)
    assert time.perf_counter() - started < 2  # a quadratic search took 6 to 14 seconds


def test_patterns_are_the_users():
    spec = {"name": "patterns", "patterns": [r"NH-\d+", "Quill"]}
    assert redact("Quill asks about NH-52008", spec) == "[redacted] asks about [redacted]"


def test_the_replacement_of_patterns_stands_as_it_is():
    assert redact("NH-52008", {"name": "patterns", "patterns": [r"NH-(\d+)"], "replacement": r"\1"}) == r"\1"


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["("], "redactor 'patterns': '(' is no regular expression (missing ), unterminated subpattern at position 0)"),
        (["x*"], "redactor 'patterns': 'x*' also finds the empty text"),
        ("x", "redactor 'patterns': patterns takes a list of regular expressions"),
        ([1], "redactor 'patterns': patterns takes a list of regular expressions"),
    ],
)
def test_patterns_that_cannot_be_used_are_one_line(patterns, message):
    with pytest.raises(ClusterLLMError) as caught:
        redact("x", {"name": "patterns", "patterns": patterns})
    assert str(caught.value) == message


def test_names_needs_a_model():
    with pytest.raises(ClusterLLMError, match="redactor 'names' needs the setting 'model'"):
        redact("Ada", "names")


def test_names_without_spacy_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ClusterLLMError) as caught:
        redact("Ada", {"name": "names", "model": "en_core_web_sm"})
    assert str(caught.value) == "redactor 'names' needs an extra: pip install 'clusterllm-plugins[spacy]'"


def test_names_with_a_model_that_is_missing_is_one_line(tmp_path):
    pytest.importorskip("spacy")
    with pytest.raises(ClusterLLMError, match=r"^redactor 'names': cannot load the spaCy model 'xx_none' .*\)$"):
        redact("Ada", {"name": "names", "model": "xx_none"})


def test_names_with_a_model_that_finds_none_is_one_line(tmp_path):
    pytest.importorskip("spacy").blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ClusterLLMError, match=r"finds no entities; take one with ner$"):
        redact("Ada", {"name": "names", "model": str(tmp_path / "blank")})


def test_names_replaces_persons_and_no_other_entities(tmp_path):
    nlp = pytest.importorskip("spacy").blank("en")
    nlp.add_pipe("entity_ruler").add_patterns(
        [
            {"label": "PERSON", "pattern": "Ada Quill"},
            {"label": "PER", "pattern": "Bo"},
            {"label": "GPE", "pattern": "Ulm"},
        ]
    )
    nlp.to_disk(tmp_path / "ruler")
    text = "Ada Quill and Bo live in Ulm"
    assert redact(text, {"name": "names", "model": str(tmp_path / "ruler")}) == "[name] and [name] live in Ulm"
