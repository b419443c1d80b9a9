"""Canaries: addresses, numbers and a key that must turn up nowhere, texts that hold them, and the search for them.

All people, addresses and numbers are made up. A canary is looked for as bytes in every form in which it could stand.
"""

import base64
import json
import logging
import re
import sqlite3
import traceback
import warnings
from contextlib import contextmanager
from itertools import chain
from urllib.parse import quote, unquote_to_bytes

from loopback import Handler, Server, running
from provider_kit import said

KEY = "acorn/Walnut+Hazel=7f3a9c"  # looks like no key that anybody knows, and reads otherwise in an address
KEY_NAME = "ORCHARD"  # which does not say that it holds a key
SHAPED_KEY = "sk-acorn-Walnut0Hazel7f3a9c"

_EMAIL_FORMS = (
    "quill{n}ada@example.com",
    "quill{n}ada+orders@example.org",
    "quill{n}ada@mail.shop.example.co.uk",
    "QUILL{n}ADA@EXAMPLE.COM",
    "<quill{n}ada@example.net>",
    "mailto:quill{n}ada@example.com?subject=hello",
    "quill{n}ada@bücher.example",
    "quill{n}ада@почта.example",
    "quill{n}ada@xn--bcher-kva.example",
    "quill{n}.o'ada-b_c@example.com",
    "quill{n}ada (at) example (dot) com",
    '"quill{n} ada"@example.com',
    "quill{n}ada＠example。com",
    "quill{n}ada@[203.0.113.9]",
    "quill{n}ada%40example.com",
    "[write](mailto:quill{n}ada@example.com)",
)
_PHONE_FORMS = (
    "+44 20 79{n} 0958",
    "+1 (202) 555-0{n}",
    "(202) 555-0{n}",
    "202.555.0{n}",
    "030/231{n}23",
    "0044 20 79{n}0958",
    "+49 (0)30 23{n}-456 ext. 7",
    "06 12 34 5{n} 78",
    "+4420794{n}0958",
    "555-0{n}",
    "06·12·34·5{n}·78",
    "+44\u00a020\u00a079{n}\u00a00958",
    "202\u2011555\u20110{n}",
    "tel:+1-202-555-0{n}",
    "0172 3{n}4567",
)
_GAPS = (" ", "-", "", ".", "\u00a0", "_", "  ")


def _with_check_digit(digits):
    """Return a card number that passes Luhn's test."""
    doubled = [int(d) * 2 if place % 2 == 0 else int(d) for place, d in enumerate(reversed(digits))]
    total = sum(number - 9 if number > 9 else number for number in doubled)
    return digits + str(-total % 10)


def _card(number):
    digits = _with_check_digit(f"41111111{number:07}"[:15])
    return _GAPS[number % len(_GAPS)].join(digits[start : start + 4] for start in range(0, 16, 4))


def _iban(number):
    country, account = (("DE", f"37040044{number:010}"), ("GB", f"NWBK601613{number:08}"), ("NO", f"8601{number:07}"))[
        number % 3
    ]
    numeric = "".join(str(int(char, 36)) for char in account + country + "00")
    whole = f"{country}{98 - int(numeric) % 97:02}{account}"
    whole = whole.lower() if number % 5 == 0 else whole
    gap = (" ", "", "-", "\u00a0")[number % 4]
    return gap.join(whole[start : start + 4] for start in range(0, len(whole), 4))


def canaries(seed=0):
    """Return 200 canaries: 64 addresses, 60 phone numbers, 44 cards and 32 accounts; other ones for another seed."""
    start = 100 * seed
    emails = [_EMAIL_FORMS[n % len(_EMAIL_FORMS)].format(n=start + n + 1000) for n in range(64)]
    phones = [_PHONE_FORMS[n % len(_PHONE_FORMS)].format(n=(start + 7 * n) % 900 + 100) for n in range(60)]
    cards = [_card(31 * n + start + 5200) for n in range(44)]
    accounts = [_iban(9173 * n + start + 5300) for n in range(32)]
    return [*emails, *phones, *cards, *accounts]


_SUBJECTS = (
    "The parcel for {} is late, says the courier who rang {}, and {} paid for it",
    "My password for {} is wrong; the login sent to {} was charged to {}",
    "Please send the invoice copy to {}, or call {}: the tax on {} is missing",
    "The lamp I ordered with {} flickers, {} is where I am, refund it to {}",
)


_THINGS = ["copper", "walnut", "amber", "velvet", "cedar", "marble", "indigo", "linen", "pewter"]
_PLACES = ["gate", "mill", "harbour", "orchard", "bridge", "tower", "meadow"]


def texts_with(found):
    """Return a text for each three of the canaries, distinct also without them."""
    found = list(found)
    third = -(-len(found) // 3)
    columns = found[:third], found[third : 2 * third], found[2 * third :]
    rows = [[column[place % len(column)] for column in columns] for place in range(third)]
    return [
        f"{_SUBJECTS[place % len(_SUBJECTS)].format(*row)}, the {_THINGS[place % 9]} {_PLACES[place % 7]}"
        for place, row in enumerate(rows)
    ]


# As they are in UTF-8 and UTF-16, the latter without zeros, and in JSON.
_BLANKS = re.compile(rb"\x11\x20|\x20\x11|[\s./()_+-]|\xc2?[\xa0\xb7]|\xe2\x80[\x80-\x95]|\\+u(?:00a0|00b7|201[01])")


def _squeezed(data):
    """Return bytes without what stands between the parts of a number, as it is or in an address."""
    return _BLANKS.sub(b"", unquote_to_bytes(data))


def forms(canary):
    """Return what is looked for: bytes in small letters, and bytes without what stands between the parts."""
    core = re.search(r"quill\d+", canary.lower())  # of an address its first part says who it is
    if core:
        return {core[0].encode()}, set()
    written = canary.lower().encode()
    squeezed = _squeezed(written)
    # A shorter run of digits stands somewhere by chance.
    return {written}, {squeezed, re.sub(rb"\D", b"", squeezed)} if sum(map(str.isdigit, canary)) >= 9 else set()


def key_forms(key):
    """Likewise for a key, also where a part is cut off."""
    coded = {base64.b64encode(word.encode()).decode().rstrip("=") for word in (key, f"Bearer {key}", f":{key}")}
    words = {key, key[: len(key) * 2 // 3], *coded}
    return {form.lower().encode() for word in words for form in (word, quote(word), quote(word, safe=""))}, set()


def sightings(places, wanted):
    """Return (place, what was found) for each canary that stands in a place.

    Args:
        places: Bytes by the name of the place.
        wanted: The forms of each canary, by the canary.
    """
    found = []
    for place, data in places.items():
        small = data.lower().replace(b"\0", b"")  # so characters of two or four bytes are found, too
        squeezed = _squeezed(small)
        for canary, (written, close) in wanted.items():
            if any(form in small for form in written) or any(form in squeezed for form in close):
                found.append((place, canary))
    return found


def wanted_of(found, *keys):
    """Return the forms of all canaries and keys, as :func:`sightings` takes them."""
    return {canary: forms(canary) for canary in found} | {key: key_forms(key) for key in keys}


def places_in(folder):
    """Return the bytes of every file below a folder, and the rows of each store; no ``text`` of ``clusters.jsonl``."""
    places = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        data = path.read_bytes()
        if path.name == "clusters.jsonl":
            data = without_text(data.decode()).encode()
        places[name] = name.encode() + b"\n" + data
        if path.suffix == ".sqlite":  # a row that is longer than a page lies in pieces
            with sqlite3.connect(path) as store:
                places[f"{name} (rows)"] = "\n".join(store.iterdump()).encode()
            store.close()
    return places


def without_text(lines):
    """Return lines as those of ``clusters.jsonl`` without the one field that may hold the user's words."""
    records = [json.loads(line) for line in lines.splitlines() if line.strip()]
    assert all(set(record) == {"text", "cluster_id", "cluster_label", "cluster_score"} for record in records)
    return "\n".join(json.dumps(record | {"text": ""}, ensure_ascii=False) for record in records)


def told_by(error):
    """Return all that an error says: itself and all that it came from, shown or not."""
    told, seen, left = [], set(), [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        told += [str(one), repr(one), repr(one.args), "".join(traceback.format_exception(one))]
        told += [f"{name}={value!r}" for name, value in vars(one).items()]
        told += [str(getattr(getattr(one, "response", None), "text", ""))]
        left += [one.__cause__, one.__context__]
    return "\n".join(told)


class _Keeper(logging.Handler):
    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.name} {record.getMessage()} {record.args!r}")
        if record.exc_info and record.exc_info[1] is not None:
            self.lines.append(told_by(record.exc_info[1]))


@contextmanager
def listening():
    """Keep what all loggers say at any level, and all warnings; a list of lines."""
    keeper, root = _Keeper(), logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in ("openai", "httpx", "httpcore", "clusterllm_plugins"))]
    before = [logger.level for logger in loggers]
    root.addHandler(keeper)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield keeper.lines
    finally:
        keeper.lines += [str(warning.message) for warning in warned]
        root.removeHandler(keeper)
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class LoggingServer(Server):
    """A chat server that keeps every byte that it gets, but for the header that a key belongs into.

    Args:
        reply: Given the prompt and that header's value: a text, or a status and a text.
    """

    def __init__(self, reply):
        super().__init__(_Chat)
        self.reply = reply
        self.log = []
        self.keys = []


class _Chat(Handler):
    def posted(self, sent):
        key = self.headers["Authorization"]
        headers = [f"{name}: {value}" for name, value in self.headers.items() if name.lower() != "authorization"]
        self.server.log.append(self.raw_requestline + "\n".join(headers).encode() + b"\n\n" + sent)
        self.server.keys.append(key)
        self.send(*said(self.server.reply(json.loads(sent)["messages"][0]["content"], key)))


def logging_server(reply):
    """Return a context in which a server runs."""
    return running(LoggingServer(reply))


def sensible(prompt, key=None):
    """Answer any question, and name any group."""
    if prompt.startswith("Give a group"):
        return "Late parcels"
    return "yes" if "yes or no" in prompt else "1"


def echo(prompt, key):
    """Say back all that came: of one in three the answer, with it the key; of a group a name that holds the key."""
    if prompt.startswith("Give a group"):
        return f"Key {key.removeprefix('Bearer ')}"
    if len(prompt) % 3 == 0:
        return f"{key.removeprefix('Bearer ')} I was sent {key} and {prompt}"
    return f"{prompt} {key}\n{sensible(prompt)}"


def echoed_error(prompt, key):
    """Fail with all that came."""
    return 400, f"Incorrect request {prompt} with the header Authorization: {key}, key {key.removeprefix('Bearer ')}"


# Everything that the command does with an oracle.

REDACT = ["--redact", "emails", "--redact", "phones", "--redact", "numbers"]
_SETTINGS = ["--embedder", "lsa", "--method", "auto", "--n-clusters", "3", "--max-questions", "60"]


class Life:
    """Runs the command in this process, and keeps what it says and writes.

    Args:
        folder: For its files.
        oracle: Its name and settings.
        texts: To be clustered.
        new: To be assigned.
        redact: Options.
    """

    def __init__(self, folder, oracle, texts, new, redact=REDACT):
        options = [["--set", f"oracle.{name}={json.dumps(value)}"] for name, value in oracle.items() if name != "name"]
        self.folder = folder / "results"
        self.settings = [*_SETTINGS, "--oracle", oracle["name"], *redact, *chain.from_iterable(options)]
        self.said = {}
        self._input = folder / "input"
        self._input.mkdir()
        self.folder.mkdir()
        self.file, self.new = self._written("texts", texts), self._written("new", new)

    def _written(self, name, texts):
        path = self._input / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        return path

    def run(self, command, *arguments):
        """Run a command; return its exit code and what it printed."""
        from typer.testing import CliRunner

        from clusterllm_plugins.cli import app

        with listening() as lines:
            result = CliRunner().invoke(app, [command, *map(str, arguments)])
        printed = result.stdout
        told = [result.stderr, told_by(result.exception) if result.exception else "", *lines]
        self.said[f"{len(self.said)} {command}"] = printed
        self.said[f"{len(self.said)} {command}, beside its output"] = "\n".join(told)
        return result.exit_code, printed

    def cluster(self, name="out", *more):
        return self.run("cluster", self.file, "-o", self.folder / name, *self.settings, *more)[0]

    def whole(self, between=lambda: None):
        """Do all there is; ``between`` is called before the same run is tried again."""
        assert self.run("quote", self.file, "--show", "5", *self.settings)[0] == 0
        asks_all = ["--method", "paper", "--max-questions", "250"]
        for name, more in (("out", ["--log-texts"]), ("other", asks_all)):
            log = ["--log", self.folder / f"{name}.log.jsonl"]
            for _ in range(12):
                if self.cluster(name, *log, *more) == 0:
                    break
                between()
            assert (self.folder / name / "artifact.json").is_file(), self.said
        return self.after(self.folder / "out")

    def after(self, out):
        """Do what can be done with the results."""
        assert self.run("answers", out)[0] == 0
        for number in (1, 2, 30):
            self._explain(out, number)
        predicted = self.folder / "predicted" / "clusters.jsonl"
        assert self.run("predict", out, self.new, "-o", predicted)[0] == 2  # there is no such folder
        predicted.parent.mkdir()
        assert self.run("predict", out, self.new, "-o", predicted)[0] == 0
        return self

    def _explain(self, out, number):
        code, printed = self.run("explain", out, number)
        assert code == 0
        name = f"{len(self.said) - 2} explain"
        self.said[name] = printed.partition("\n")[2]  # its first line is that of clusters.jsonl
        assert self.run("explain", out, number, "--json")[0] == 0
        name = f"{len(self.said) - 2} explain"
        self.said[name] = json.dumps(json.loads(self.said[name]) | {"text": ""}, ensure_ascii=False)

    @property
    def places(self):
        """All that was said and written, as bytes by where it stands."""
        said = {name: text.encode("utf-8", "surrogatepass") for name, text in self.said.items()}
        return said | places_in(self.folder)
