"""examples/haystack and docs/haystack-integration.md: everything runs as written, without a network."""

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import socket
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

import yaml
from haystack import Document, Pipeline
from haystack.components.generators.chat import OpenAIChatGenerator

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "haystack"
LOCAL = {"127.0.0.1", "::1", "localhost"}
PROXIES = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]


def refuse_the_network(monkeypatch):
    """Let sockets connect to this machine only."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in LOCAL:
            raise AssertionError(f"connects to {address}")
        return connect(self, address)

    def guarded_lookup(host, *args, **kwargs):
        if host not in LOCAL:
            raise AssertionError(f"looks up {host}")
        return lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_lookup)


def prepare(monkeypatch):
    """Make a process look as ``python examples/haystack/NAME.py`` finds it, with neither key nor network."""
    refuse_the_network(monkeypatch)
    for name in [*PROXIES, "OPENAI_API_KEY", "OPENAI_BASE_URL"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "stand_in", raising=False)


def run(monkeypatch, name, *arguments):
    """Return what an example prints."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return out.getvalue()


@pytest.fixture
def alone(monkeypatch):
    prepare(monkeypatch)
    return monkeypatch


def functions(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))


def documents(texts):
    return [Document(content=text) for text in texts]


# Queries.


@pytest.fixture(scope="module")
def routed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        prepare(monkeypatch)
        return run(monkeypatch, "route_queries", "--artifact", tmp_path_factory.mktemp("fitted"))


def per_query(printed):
    """Yield the query, its cluster, how many documents were searched, and the hits as (cluster, text)."""
    for block in printed.split("\n\n")[1:]:
        query, *lines = block.strip("\n").split("\n")
        (cluster,) = [int(line.split()[1].strip(",")) for line in lines if line.startswith("  cluster ")]
        (searched,) = [int(line.split()[1]) for line in lines if line.startswith("  searched: ")]
        hits = [re.fullmatch(r"  \[(\d+)\] (.*)", line).groups() for line in lines if line.startswith("  [")]
        yield query, cluster, searched, [(int(number), text) for number, text in hits]


def test_a_routed_querys_hits_all_carry_its_cluster(routed, messages):
    found = list(per_query(routed))
    assert len(found) == 3
    for _, cluster, searched, hits in found:
        assert 0 < searched < len(messages) / 2
        assert hits
        assert {number for number, _ in hits} == {cluster}
        assert {text for _, text in hits} <= set(messages)


def test_queries_of_other_kinds_go_to_other_clusters(routed):
    assert len({cluster for _, cluster, _, _ in per_query(routed)}) > 1


def test_it_is_said_that_the_answers_are_a_mocks(routed):
    assert "200 questions went to a mock that counts common words, not to a language model" in routed


def test_a_query_of_your_own(alone, tmp_path):
    ((query, cluster, _, hits),) = per_query(run(alone, "route_queries", "lamp", "--n-clusters", 8))
    assert query == "lamp"
    assert 0 <= cluster < 8
    assert all("lamp" in text.lower() for _, text in hits)


def test_a_blank_query_searches_everything(alone):
    clusters_filter = functions("route_queries")["ClusterFilter"]()
    assert clusters_filter.run([]) == {"filters": {}}


# Tickets.


@pytest.fixture(scope="module")
def overview():
    """What the example prints, and the server that was asked."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        prepare(monkeypatch)
        stand_in = importlib.import_module("stand_in")
        servers = []

        class Kept(stand_in.StandIn):
            def __init__(self):
                super().__init__()
                servers.append(self)

        monkeypatch.setattr(stand_in, "StandIn", Kept)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-not-to-be-used")
        printed = run(monkeypatch, "ticket_overview", "--offline")
        (server,) = servers
        return printed, server


def groups(printed):
    """Return (size, label, keywords, exemplars) of each group that is printed."""
    blocks = re.findall(r"^ *(\d+)  (\S.*)\n +keywords: (.*)\n((?: +- .*\n)+)", printed, re.MULTILINE)
    return [(int(size), label, words.split(", "), re.findall(r"- (.*)", texts)) for size, label, words, texts in blocks]


def test_the_overview_names_every_group_and_its_sizes_add_up(overview, messages):
    printed, _ = overview
    found = groups(printed)
    sizes = [size for size, *_ in found]
    assert f"{len(messages)} tickets in {len(found)} groups, 0 could not be used" in printed
    assert sum(sizes) == len(messages)
    assert sizes == sorted(sizes, reverse=True)
    assert len({label for _, label, *_ in found}) == len(found)
    assert 12 <= len(found) <= 24


def test_each_group_has_keywords_and_its_own_exemplars(overview, messages):
    found = groups(overview[0])
    for _, _, words, texts in found:
        assert len(words) == 10
        assert 1 <= len(texts) <= 3
        assert all(any(message.startswith(text.rstrip("…")) for message in messages) for text in texts)
    everything = [text for *_, texts in found for text in texts]
    assert len(set(everything)) == len(everything)


def test_the_server_saw_the_questions_and_the_stats_count_them(overview):
    printed, server = overview
    asked, requests, read, _ = map(
        int,
        re.search(r"(\d+) questions asked in (\d+) requests: (\d+) tokens in, (\d+) out", printed).groups(),
    )
    assert 0 < asked == requests == len(server.prompts) <= 300
    assert read == sum(len(prompt.split()) for prompt in server.prompts)
    assert all("in terms of what the customer wants" in prompt for prompt in server.prompts)
    assert {"yes or no" in prompt for prompt in server.prompts} == {True, False}


def test_with_a_key_and_no_flag_openai_is_asked(alone, tmp_path, texts):
    tickets = tmp_path / "tickets.jsonl"
    tickets.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with importlib.import_module("stand_in").serve() as server:  # OPENAI_BASE_URL is what OpenAI's client reads
        alone.setenv("OPENAI_API_KEY", "sk-acorn")
        alone.setenv("OPENAI_BASE_URL", server.url)
        printed = run(alone, "ticket_overview", tickets, "--max-llm-calls", 9)
    assert printed.startswith(f"Asking gpt-4o-mini at {server.url}, at most 9 times.")
    assert "stand-in" not in printed
    assert 0 < len(server.prompts) <= 9


def test_a_server_that_refuses_the_key_is_told_of(alone, tmp_path, texts):
    stand_in = importlib.import_module("stand_in")
    alone.setattr(stand_in.Handler, "do_POST", lambda handler: handler.send_error(401))
    tickets = tmp_path / "tickets.jsonl"
    tickets.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with stand_in.serve() as server:
        alone.setenv("OPENAI_API_KEY", "sk-acorn")
        alone.setenv("OPENAI_BASE_URL", server.url)
        printed = run(alone, "ticket_overview", tickets)
    assert "Grouped without answers: oracle 'haystack' (OpenAIChatGenerator): " in printed
    assert sum(size for size, *_ in groups(printed)) == len(texts)


def test_without_a_key_it_is_said_that_no_language_model_answers(overview, alone, tmp_path, texts):
    tickets = tmp_path / "tickets.jsonl"
    tickets.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for printed in (overview[0], run(alone, "ticket_overview", tickets)):
        assert printed.startswith("Offline: a stand-in at http://127.0.0.1:")
        assert "it is no language model" in printed


# The stand-in.


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (["the parcel was returned", "a lamp"], "1"),
        (["a lamp", 'returning a "parcel"'], "2"),
        (["a lamp", "a rug"], "none of them"),
    ],
)
def test_the_stand_in_chooses_what_has_more_words_in_common(alone, candidates, expected):
    from haystack.dataclasses import ChatMessage

    from clusterllm_plugins.prompts import render
    from clusterllm_plugins.questions import triplet_question

    question = triplet_question(["I returned my parcel", *candidates], 0, 1, 2)
    assert importlib.import_module("stand_in").reply([ChatMessage.from_user(render(question))]) == expected


@pytest.mark.parametrize(("right", "expected"), [("parcel never returned", "yes"), ("a lamp", "no")])
def test_the_stand_in_says_yes_to_two_words_in_common(alone, right, expected):
    from haystack.dataclasses import ChatMessage

    from clusterllm_plugins.prompts import render
    from clusterllm_plugins.questions import pair_question

    shown = [("a lamp", "a lamp", "yes")]
    prompt = render(pair_question(["I returned my parcel", right], 0, 1, demonstrations=shown))
    assert importlib.import_module("stand_in").reply([ChatMessage.from_user(prompt)]) == expected


# The grouper.


def test_yaml_and_python_make_the_same_pipeline(alone):
    made = functions("group_documents")
    assert made["from_yaml"]() == made["in_python"]()


def test_yaml_and_python_give_the_same_groups(alone, messages):
    made = functions("group_documents")
    data = {"grouper": {"documents": documents(messages[:80])}}
    by_yaml, by_python = (made[name]().run(data)["grouper"] for name in ("from_yaml", "in_python"))
    assert by_yaml["documents"] == by_python["documents"]
    assert by_yaml["clusters"] == by_python["clusters"]
    assert len(by_yaml["clusters"]) >= 8


def test_the_grouper_prints_its_largest_groups(alone):
    printed = run(alone, "group_documents")
    assert re.match(r"300 documents in \d+ groups; nobody was asked.\nYAML and Python give the same groups.\n", printed)
    sizes = [int(size) for size in re.findall(r"^ *(\d+)  \S.*: .*, ", printed, re.MULTILINE)]
    assert len(sizes) == 5
    assert sizes == sorted(sizes, reverse=True)


def uncommented(text):
    """Return YAML with its commented chat generator in place of none."""
    block = re.search(r"( *)# (chat_generator:\n)((?:\1#   .*\n)+)", text)
    lines = re.sub(r"^( *)# ", r"\1", block[0], flags=re.MULTILINE)
    return re.sub(r"^ *chat_generator: null\n", "", text.replace(block[0], lines), flags=re.MULTILINE)


YAML = [
    (FOLDER / "group.yaml").read_text(encoding="utf-8"),
    re.search(r'loads\("""\n(.*?)"""', (ROOT / "docs" / "haystack-integration.md").read_text("utf-8"), re.DOTALL)[1],
]


@pytest.mark.parametrize("text", YAML, ids=["group.yaml", "docs"])
def test_the_chat_generator_in_comments_is_right(alone, text):
    pipe = Pipeline.loads(uncommented(text))
    grouper = pipe.get_component("grouper").to_dict()["init_parameters"]
    assert grouper["chat_generator"]["type"].endswith(OpenAIChatGenerator.__name__)
    assert grouper["chat_generator"]["init_parameters"]["max_retries"] == 0


# The README and the integration's page.


def test_the_readme_tells_of_every_file():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}
    assert {name for name in files if f"`{name}`" in readme} == files


PAGE = (ROOT / "docs" / "haystack-integration.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_page_has_the_frontmatter_that_the_site_wants():
    front = yaml.safe_load(PAGE.split("---\n")[1])
    assert front["layout"] == "integration"
    assert front["type"] == "Custom Component"
    assert front["pypi"] == "https://pypi.org/project/clusterllm-plugins"
    assert front["version"] == "Haystack 3.4"
    assert all(author["name"] for author in front["authors"])
    assert front["name"]
    assert front["description"]
    assert "repo" in front
    assert "report_issue" in front


def test_the_table_of_contents_is_that_of_the_page():
    entries = re.findall(r"^ *- \[(.*)\]\(#(.*)\)$", PAGE, re.MULTILINE)
    text = re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL)
    assert [title for title, _ in entries] == re.findall(r"^##+ ([^*\n]+)$", text, re.MULTILINE)
    for title, anchor in entries:
        assert anchor == re.sub(r"[^\w-]", "", title.lower().replace(" ", "-"))


def test_the_page_tells_of_every_component():
    import haystack_integrations.components.clusterers.clusterllm as clusterers
    import haystack_integrations.components.embedders.clusterllm as embedders

    for name in [*clusterers.__all__, *embedders.__all__]:
        assert f"`{name}`" in PAGE


def test_every_block_of_the_page_runs(alone, tmp_path, capsys):
    alone.chdir(tmp_path)  # in this order: later ones read the folder of the first
    printed = []
    for number, block in enumerate(BLOCKS, start=1):
        exec(compile(block, f"block {number}", "exec"), {})
        printed.append(capsys.readouterr().out)
    assert len(printed) == 6
    assert all(text.strip() for text in printed)
    grouped, _, routed, found, _, async_ = printed
    clusters = dict(re.findall(r"^\d+ (.*?) (\S+ \S+ parcel\?|My .*)$", grouped, re.MULTILINE))
    assert clusters
    assert "meta.cluster_id" in routed
    assert found.strip() == "The parcel is late"
    asked = re.search(r"'questions_asked': (\d+)", async_)[1]
    assert async_.strip().splitlines()[-1] == asked != "0"
