"""The plugin contract, line by line: hooks, discovery through real entry points, resolution by name."""

import inspect
import logging
import sys
import tomllib
import types
from pathlib import Path
from textwrap import dedent

import numpy as np
import pluggy
import pytest

import clusterllm_plugins.plugins
from clusterllm_plugins import Answer, ClusterLLMError, ClusterLLMWarning, Plugins, hookimpl
from clusterllm_plugins import hookspecs as contract
from clusterllm_plugins.asking import Session
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.components import resolve_redaction
from clusterllm_plugins.errors import PluginError
from clusterllm_plugins.questions import Usage
from clusterllm_plugins.store import AnswerStore
from clusterllm_plugins.testing import questions

ROOT = Path(__file__).resolve().parent.parent
BUILT_INS = ["clusterllm-plugins:redactors", "clusterllm-plugins:embedders", "clusterllm-plugins:oracles"]
HOOKS = [name for name, member in vars(contract).items() if hasattr(member, "clusterllm_spec")]


@pytest.fixture(autouse=True)
def _default_environment(monkeypatch):
    monkeypatch.delenv("CLUSTERLLM_LOAD_PLUGINS", raising=False)
    monkeypatch.delenv("CLUSTERLLM_STRICT_PLUGINS", raising=False)


class Echo:
    """An oracle that takes the first choice, and remembers what it was asked."""

    def __init__(self, model: str = "small", temperature: float = 0.0) -> None:
        self.model = model
        self.fingerprint = f"echo:{model}:{temperature}"
        self.asked = []

    def answer(self, questions):
        self.asked += questions
        return [Answer(question.choices[0], usage=Usage(10, 2, 1)) for question in questions]


class Lengths:
    """An embedder that knows how long a text is."""

    fingerprint = "lengths:1"

    def embed(self, texts):
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


def plugin(**functions):
    """Return a module with these hook implementations."""
    module = types.ModuleType("local")
    for name, function in functions.items():
        setattr(module, name, hookimpl(function))
    return module


def registered(**functions):
    """Return plugins of which one, called "local", has these hook implementations."""
    plugins = Plugins(discover=False)
    plugins.register(plugin(**functions), "local")
    return plugins


def with_factory(factory, kind="oracle", name="echo"):
    """Return plugins that know one factory."""
    return registered(**{f"register_{kind}s": lambda register: register(name, factory)})


def ask(plugins, oracle, redaction=None):
    """Return the answers to the testing questions, and the session that asked them."""
    with AnswerStore() as store:
        session = Session(oracle, plugins=plugins, store=store, redaction=redaction)
        return session.ask(questions(), QuestionCap(10)), session


# --- the hooks -------------------------------------------------------------------------------------------------


def test_hook_register_oracles():
    oracle = with_factory(Echo).oracle({"name": "echo", "model": "large"})
    assert (type(oracle), oracle.model) == (Echo, "large")


def test_hook_register_embedders():
    assert isinstance(with_factory(Lengths, "embedder", "lengths").embedder("lengths"), Lengths)


def test_hook_register_redactors():
    redactor = with_factory(lambda: str.upper, "redactor", "shout").redactor("shout")
    assert redactor("quiet please") == "QUIET PLEASE"


def test_hook_recall_answer():
    oracle = Echo()
    answers, _ = ask(registered(recall_answer=lambda question, oracle: Answer(question.choices[1])), oracle)
    assert ([answer.choice for answer in answers], oracle.asked) == (["2", "2", "no", "2"], [])


def test_hook_answer_received():
    seen = []
    oracle = Echo()
    observer = registered(answer_received=lambda question, answer, oracle: seen.append((question, answer, oracle)))
    answers, _ = ask(observer, oracle)
    assert seen == [(question, answer, oracle) for question, answer in zip(questions(), answers, strict=True)]


def test_hook_answer_given():
    seen = []
    oracle = Echo()
    observer = registered(
        answer_given=lambda question, answer, oracle, source, attempts, seconds: seen.append(
            (question, answer, oracle, source, attempts, seconds >= 0)
        )
    )
    answers, _ = ask(observer, oracle)
    given = zip(questions(), answers, strict=True)
    assert seen == [(question, answer, oracle, "asked", 1, True) for question, answer in given]


def test_hook_price_usage():
    answers, session = ask(registered(price_usage=lambda usage, oracle: usage.tokens / 4), Echo())
    assert ([answer.usage.cost for answer in answers], session.usage.cost) == ([3.0] * 4, 12.0)


def test_every_hook_of_the_contract_is_known_here():
    assert len(HOOKS) == 7


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook):
    assert callable(globals()[f"test_hook_{hook}"])


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented_with_its_exact_signature(hook):
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    documentation = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    signature = f"{hook}({', '.join(inspect.signature(getattr(contract, hook)).parameters)})"
    assert signature in documentation


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_docstring(hook):
    assert inspect.getdoc(getattr(contract, hook))


def test_the_first_recalled_answer_counts():
    plugins = registered(recall_answer=lambda question: Answer(question.choices[1]))
    plugins.register(plugin(recall_answer=lambda question: None), "empty cache")  # asked first, knows nothing
    answers, _ = ask(plugins, Echo())
    assert answers[0].choice == "2"


def test_a_recalled_answer_is_not_observed_as_paid():
    seen = []
    plugins = registered(
        recall_answer=lambda question: Answer(question.choices[0]),
        answer_received=lambda answer: seen.append(answer.choice),
    )
    ask(plugins, Echo())
    assert seen == []


def test_a_price_from_the_oracle_itself_is_kept():
    class Priced(Echo):
        def answer(self, questions):
            return [Answer(question.choices[0], usage=Usage(10, 2, 1, cost=0.5)) for question in questions]

    answers, _ = ask(registered(price_usage=lambda usage: 99.0), Priced())
    assert answers[0].usage.cost == 0.5


def _raise(*_):
    raise RuntimeError("out of order")


def test_an_observer_fails_open():
    answers, _ = ask(registered(answer_received=lambda answer: _raise()), Echo())
    assert [answer.choice for answer in answers] == ["1", "1", "yes", "1"]


def test_a_failing_observer_does_not_keep_another_from_observing():
    seen = []
    plugins = registered(answer_received=lambda answer: seen.append(answer.choice))
    plugins.register(plugin(answer_received=lambda answer: _raise()), "failing")
    ask(plugins, Echo())
    assert len(seen) == 4


def test_a_failing_observer_is_logged_once_with_its_plugin(caplog):
    with caplog.at_level(logging.WARNING):
        ask(registered(answer_received=lambda answer: _raise()), Echo())
    (record,) = caplog.records
    assert "answer_received of plugin 'local' failed with RuntimeError: out of order" in record.getMessage()


def _redactors(**factories):
    def register_redactors(register):
        for name, factory in factories.items():
            register(name, factory)

    return registered(register_redactors=register_redactors)


@pytest.mark.parametrize(
    ("order", "redacted"), [(["digits", "codes"], "ring CODE"), (["codes", "digits"], "ring NUMBER")]
)
def test_redactors_run_in_the_configured_order(order, redacted):
    plugins = _redactors(
        digits=lambda: lambda text: text.replace("5550199", "NUMBER"),
        codes=lambda: lambda text: text.replace("NUMBER", "CODE"),
    )
    assert resolve_redaction(plugins, order).text("ring 5550199") == redacted


def test_an_oracle_sees_only_redacted_texts():
    oracle = Echo()
    plugins = _redactors(blank=lambda: lambda text: "*")
    ask(plugins, oracle, resolve_redaction(plugins, ["blank"]))
    assert {question.anchor for question in oracle.asked} == {"*"}


def test_recall_sees_only_redacted_texts():
    seen = []
    plugins = registered(recall_answer=lambda question: seen.append(question.anchor))
    plugins.register(plugin(register_redactors=lambda register: register("blank", lambda: lambda text: "*")), "blank")
    ask(plugins, Echo(), resolve_redaction(plugins, ["blank"]))
    assert set(seen) == {"*"}


@pytest.mark.parametrize("redactor", [_raise, lambda text: None], ids=["raises", "returns no text"])
def test_redactors_fail_closed(redactor):
    oracle = Echo()
    plugins = _redactors(bad=lambda: redactor)
    with pytest.raises(ClusterLLMError, match=r"^redactor 'bad' .*: nothing was sent$"):
        ask(plugins, oracle, resolve_redaction(plugins, ["bad"]))
    assert oracle.asked == []


def test_the_error_of_a_redactor_does_not_quote_the_text():
    def leak(text):
        raise ValueError(f"cannot redact {text}")

    with pytest.raises(ClusterLLMError) as caught:
        resolve_redaction(_redactors(leak=lambda: leak), ["leak"]).text("my number is 555 0199")
    assert "555" not in str(caught.value)


# --- discovery -------------------------------------------------------------------------------------------------

ACME = """
    from clusterllm_plugins import Answer, hookimpl

    class AcmeOracle:
        fingerprint = "acme:1"

        def answer(self, questions):
            return [Answer(question.choices[0]) for question in questions]

    @hookimpl
    def register_oracles(register):
        register("NAME", AcmeOracle)
"""

# What a plugin brings before it turns out to be broken: nothing of this may stay.
LEFTOVER = """
    from clusterllm_plugins import hookimpl

    @hookimpl
    def answer_received(answer):
        pass

    @hookimpl
    def register_embedders(register):
        register("leftover", "nowhere:Leftover")
"""

BROKEN = {
    "raises on import": "raise RuntimeError('no licence')",
    "exits on import": "raise SystemExit(3)",
    "has a syntax error": "def broken(:",
    "imports what is not installed": "import clusterllm_no_such_package",
    "misspells a hook": "@hookimpl\ndef register_oracels(register):\n    pass",
    "misnames a parameter": "@hookimpl\ndef register_oracles(registry):\n    pass",
    "takes the name openai": "@hookimpl\ndef register_oracles(register):\n    register('openai', 'nowhere:Fake')",
    "takes a name twice": "@hookimpl\ndef register_oracles(register):\n    [register('two', 'a:B') for _ in range(2)]",
    "registers no factory": "@hookimpl\ndef register_oracles(register):\n    register('acme', 5)",
    "registers no dotted string": "@hookimpl\ndef register_oracles(register):\n    register('acme', 'nowhere')",
    "raises in a hook": "@hookimpl\ndef register_redactors(register):\n    raise KeyError('settings')",
}
each_broken = pytest.mark.parametrize("breakage", BROKEN.values(), ids=BROKEN)


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """Return a function that installs a distribution with one module, and maybe further ones."""
    planted = []

    def plant(distribution, source, entry_point="main", **others):
        module = distribution.replace("-", "_")
        folder = tmp_path / distribution
        info = folder / f"{module}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[clusterllm]\n{entry_point} = {module}\n")
        for name, text in {module: source, **others}.items():
            (folder / f"{name}.py").write_text(dedent(text))
            planted.append(name)
        monkeypatch.syspath_prepend(folder)

    yield plant
    for name in planted:
        sys.modules.pop(name, None)


@pytest.fixture
def plant_broken(plant):
    """Return a function that installs the distribution clusterllm-bad, which brings something and is broken."""
    return lambda breakage: plant("clusterllm-bad", dedent(LEFTOVER) + breakage)


@pytest.fixture
def discover_broken(plant, plant_broken):
    """Return a function that plants a broken plugin between two good ones and discovers all."""

    def discover(breakage):
        plant("clusterllm-aardvark", ACME.replace("NAME", "aardvark"))
        plant_broken(breakage)
        plant("clusterllm-zebra", ACME.replace("NAME", "zebra"))
        with pytest.warns(ClusterLLMWarning):
            return Plugins()

    return discover


def test_a_plugin_is_found_by_its_entry_point(plant):
    plant("clusterllm-acme", ACME.replace("NAME", "acme"))
    assert type(Plugins().oracle("acme")).__name__ == "AcmeOracle"


def test_a_plugin_is_named_by_its_distribution_and_entry_point(plant):
    plant("clusterllm-acme", ACME.replace("NAME", "acme"), entry_point="fast")
    assert Plugins().oracles["acme"].plugin == "clusterllm-acme:fast"


def test_a_good_plugin_is_found_without_a_warning(plant, recwarn):
    plant("clusterllm-acme", ACME.replace("NAME", "acme"))
    assert ("acme" in Plugins().oracles, [str(warning.message) for warning in recwarn]) == (True, [])


def test_the_built_ins_are_loaded_first(plant):
    plant("aaa-acme", ACME.replace("NAME", "acme"), entry_point="aaa")
    assert Plugins().names[:3] == BUILT_INS


def test_the_others_are_loaded_in_sorted_order(plant):
    for name in ("clusterllm-beaver", "clusterllm-aardvark", "clusterllm-camel"):
        plant(name, ACME.replace("NAME", name))
    others = [name for name in Plugins().names if name not in BUILT_INS]
    assert (others, len(others) >= 3) == (sorted(others), True)


def test_the_built_ins_come_through_the_hooks():
    plugins = Plugins()
    found = {plugins.oracles["openai"].plugin, plugins.embedders["lsa"].plugin, plugins.redactors["emails"].plugin}
    assert found == set(BUILT_INS)


def test_a_dotted_string_is_not_imported_by_discovery(plant):
    lazy = "from clusterllm_plugins import hookimpl\n@hookimpl\ndef register_oracles(register):\n"
    lazy += "    register('lazy', 'clusterllm_lazy_heavy:AcmeOracle')"
    plant("clusterllm-lazy", lazy, clusterllm_lazy_heavy=ACME)
    assert ("lazy" in Plugins().oracles, "clusterllm_lazy_heavy" in sys.modules) == (True, False)


def test_a_dotted_string_is_imported_when_it_is_used(plant):
    lazy = "from clusterllm_plugins import hookimpl\n@hookimpl\ndef register_oracles(register):\n"
    lazy += "    register('lazy', 'clusterllm_lazy_heavy:AcmeOracle')"
    plant("clusterllm-lazy", lazy, clusterllm_lazy_heavy=ACME)
    assert type(Plugins().oracle("lazy")).__module__ == "clusterllm_lazy_heavy"


@each_broken
def test_a_broken_plugin_is_kept_with_its_distribution(discover_broken, breakage):
    (broken,) = discover_broken(breakage).broken
    assert broken.name.split(":")[0] == "clusterllm-bad"


@each_broken
def test_one_warning_names_the_distribution_of_a_broken_plugin(plant_broken, breakage):
    plant_broken(breakage)
    with pytest.warns(ClusterLLMWarning) as caught:
        Plugins()
    (message,) = [str(warning.message) for warning in caught if warning.category is ClusterLLMWarning]
    assert message.startswith("plugin 'clusterllm-bad:main' is skipped: ")


@each_broken
def test_the_warning_of_a_broken_plugin_is_one_line(plant_broken, breakage):
    plant_broken(breakage)
    with pytest.warns(ClusterLLMWarning) as caught:
        Plugins()
    assert all("\n" not in str(warning.message) for warning in caught)


@each_broken
def test_nothing_that_a_broken_plugin_registered_stays(discover_broken, breakage):
    plugins = discover_broken(breakage)
    everything = [name for kind in plugins.registrations.values() for name in kind]
    assert not {"leftover", "acme", "two"} & set(everything)


@each_broken
def test_no_hook_of_a_broken_plugin_stays(discover_broken, breakage):
    hooks = discover_broken(breakage).hook
    assert [impl.plugin_name for impl in hooks.answer_received.get_hookimpls() if "bad" in impl.plugin_name] == []


@each_broken
def test_a_broken_plugin_is_not_listed_as_loaded(discover_broken, breakage):
    assert "clusterllm-bad:main" not in discover_broken(breakage).names


@each_broken
def test_the_plugins_around_a_broken_one_work(discover_broken, breakage):
    plugins = discover_broken(breakage)
    assert [type(plugins.oracle(name)).__name__ for name in ("aardvark", "zebra")] == ["AcmeOracle"] * 2


@each_broken
def test_the_built_ins_work_beside_a_broken_plugin(discover_broken, breakage):
    assert discover_broken(breakage).embedder("lsa").fingerprint.startswith("lsa:")


@each_broken
def test_a_broken_plugin_raises_in_strict_mode(plant_broken, monkeypatch, breakage):
    plant_broken(breakage)
    monkeypatch.setenv("CLUSTERLLM_STRICT_PLUGINS", "1")
    with pytest.raises(PluginError, match="plugin 'clusterllm-bad:main' is broken: "):
        Plugins()


def test_strict_mode_is_content_with_good_plugins(plant, monkeypatch):
    plant("clusterllm-acme", ACME.replace("NAME", "acme"))
    monkeypatch.setenv("CLUSTERLLM_STRICT_PLUGINS", "1")
    assert "acme" in Plugins().oracles


def test_a_stranger_cannot_take_openai(plant_broken):
    plant_broken(BROKEN["takes the name openai"])
    with pytest.warns(ClusterLLMWarning, match="oracle 'openai' is already registered by plugin 'clusterllm-plugins"):
        plugins = Plugins()
    assert plugins.oracles["openai"].plugin == "clusterllm-plugins:oracles"


def test_of_two_strangers_with_one_name_the_later_is_broken(plant):
    plant("clusterllm-second", ACME.replace("NAME", "acme"))
    plant("clusterllm-first", ACME.replace("NAME", "acme"))
    with pytest.warns(ClusterLLMWarning, match="oracle 'acme' is already registered by plugin 'clusterllm-first:main'"):
        plugins = Plugins()
    assert [broken.name for broken in plugins.broken] == ["clusterllm-second:main"]


def test_a_name_may_be_an_oracle_and_an_embedder():
    plugins = registered(
        register_oracles=lambda register: register("acme", Echo),
        register_embedders=lambda register: register("acme", Lengths),
    )
    assert (list(plugins.oracles), list(plugins.embedders)) == (["acme"], ["acme"])


@pytest.fixture
def plant_three(plant):
    for name, entry_point in (("clusterllm-one", "uno"), ("clusterllm-two", "due"), ("clusterllm-three", "tre")):
        plant(name, ACME.replace("NAME", name), entry_point=entry_point)


@pytest.mark.usefixtures("plant_three")
@pytest.mark.parametrize(
    ("wanted", "loaded"),
    [
        ("clusterllm-one", ["clusterllm-one:uno"]),
        ("due", ["clusterllm-two:due"]),
        ("clusterllm-three:tre", ["clusterllm-three:tre"]),
        ("clusterllm-one, due", ["clusterllm-one:uno", "clusterllm-two:due"]),
        ("", []),
        ("no-such-plugin", []),
    ],
)
def test_a_subset_is_loaded_by_distribution_or_entry_point(monkeypatch, wanted, loaded):
    monkeypatch.setenv("CLUSTERLLM_LOAD_PLUGINS", wanted)
    assert Plugins().names == [*BUILT_INS, *loaded]


def test_a_plugin_that_is_not_wanted_is_not_imported(plant, monkeypatch):
    plant("clusterllm-unwanted", ACME)
    monkeypatch.setenv("CLUSTERLLM_LOAD_PLUGINS", "")
    Plugins()
    assert "clusterllm_unwanted" not in sys.modules


def test_a_broken_plugin_that_is_not_wanted_is_no_matter(plant_broken, monkeypatch):
    plant_broken(BROKEN["raises on import"])
    monkeypatch.setenv("CLUSTERLLM_LOAD_PLUGINS", "")
    assert Plugins().broken == []


def test_without_discovery_nothing_is_found(plant):
    plant("clusterllm-acme", ACME.replace("NAME", "acme"))
    plugins = Plugins(discover=False)
    assert (plugins.names, *plugins.registrations.values()) == ([], {}, {}, {})


def test_without_discovery_no_plugin_is_imported(plant):
    plant("clusterllm-acme", ACME)
    Plugins(discover=False)
    assert "clusterllm_acme" not in sys.modules


def test_the_built_ins_can_be_registered_by_hand():
    import clusterllm_embedders

    plugins = Plugins(discover=False)
    plugins.register(clusterllm_embedders, "embedders")
    assert plugins.embedder("lsa").fingerprint.startswith("lsa:")


def test_the_example_plugin_is_found_as_its_pyproject_says(tmp_path, monkeypatch):
    example = ROOT / "examples" / "clusterllm-parrot"
    project = tomllib.loads((example / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [f"{name} = {module}" for name, module in project["entry-points"]["clusterllm"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[clusterllm]", *lines]))
    monkeypatch.syspath_prepend(example)
    monkeypatch.syspath_prepend(tmp_path)
    assert Plugins().oracles["parrot"].plugin == "clusterllm-parrot:parrot"


# --- registering by hand ---------------------------------------------------------------------------------------


def test_registering_one_plugin_twice_is_an_error_of_ours():
    plugins = with_factory(Echo)
    with pytest.raises(PluginError, match="local"):
        plugins.register(plugin(), "local")


def test_registering_a_name_again_leaves_the_first_plugin():
    plugins = with_factory(Echo)
    with pytest.raises(ValueError, match="local"):
        plugins.register(plugin(), "local")
    assert isinstance(plugins.oracle("echo"), Echo)


def test_a_plugin_that_failed_can_be_registered_when_it_is_mended():
    plugins = Plugins(discover=False)
    broken = plugin(register_oracles=lambda register: register("echo", 5))
    with pytest.raises(PluginError, match="a factory is a callable or"):
        plugins.register(broken, "local")
    broken.register_oracles = hookimpl(lambda register: register("echo", Echo))
    plugins.register(broken, "local")
    assert plugins.names == ["local"]


def test_a_misspelt_hook_is_an_error():
    with pytest.raises(PluginError, match="unknown hook 'register_oracels'"):
        registered(register_oracels=lambda register: None)


def test_a_misnamed_parameter_is_an_error():
    with pytest.raises(PluginError, match="registry"):
        registered(register_oracles=lambda registry: None)


def test_what_is_registered_here_is_not_known_there():
    with_factory(Echo)
    assert "echo" not in Plugins(discover=False).oracles


def test_one_plugin_can_be_registered_here_and_there():
    shared = plugin(register_oracles=lambda register: register("echo", Echo))
    both = [Plugins(discover=False), Plugins(discover=False)]
    for plugins in both:
        plugins.register(shared, "local")
    assert [list(plugins.oracles) for plugins in both] == [["echo"], ["echo"]]


def test_the_module_keeps_no_state():
    state = (Plugins, pluggy.PluginManager, dict, list, set)
    values = {name: value for name, value in vars(clusterllm_plugins.plugins).items() if not name.startswith("__")}
    assert [name for name, value in values.items() if isinstance(value, state)] == []


# --- resolution ------------------------------------------------------------------------------------------------


def message_of(plugins, spec, kind="oracle"):
    """Return what the error says when ``spec`` is resolved."""
    with pytest.raises(PluginError) as caught:
        getattr(plugins, kind)(spec)
    return str(caught.value)


def test_an_object_is_returned_as_it_is():
    oracle = Echo()
    assert Plugins(discover=False).oracle(oracle) is oracle


def test_a_function_is_a_redactor_as_it_is():
    assert Plugins(discover=False).redactor(str.upper) is str.upper


def test_settings_reach_the_factory():
    oracle = with_factory(Echo).oracle({"name": "echo", "model": "large", "temperature": 1.0})
    assert oracle.fingerprint == "echo:large:1.0"


def test_the_settings_given_are_left_alone():
    spec = {"name": "echo", "model": "large"}
    with_factory(Echo).oracle(spec)
    assert spec == {"name": "echo", "model": "large"}


def test_every_resolution_makes_a_new_component():
    plugins = with_factory(Echo)
    assert plugins.oracle("echo") is not plugins.oracle("echo")


def test_an_unknown_name_lists_the_known_ones_and_a_close_match():
    message = message_of(with_factory(Echo), "ecoh")
    assert message == "unknown oracle 'ecoh'; did you mean 'echo'? (known: echo)"


def test_an_unknown_name_far_from_all_has_no_close_match():
    assert message_of(with_factory(Echo), "quartz") == "unknown oracle 'quartz' (known: echo)"


def test_an_unknown_name_among_none_says_so():
    assert message_of(Plugins(discover=False), "echo", "embedder") == "unknown embedder 'echo' (known: none)"


def test_an_unknown_name_lists_broken_plugins(discover_broken):
    plugins = discover_broken(BROKEN["raises on import"])
    message = message_of(plugins, "bad-oracle")
    assert message.endswith("; broken plugins: clusterllm-bad:main (RuntimeError: no licence)")


def test_an_unknown_setting_shows_a_close_match_and_the_signature():
    assert message_of(with_factory(Echo), {"name": "echo", "modle": "large"}) == (
        "oracle 'echo' has no setting 'modle'; did you mean 'model'? "
        "(settings: model: str = 'small', temperature: float = 0.0)"
    )


def test_an_unknown_setting_of_a_factory_without_settings():
    message = message_of(with_factory(lambda: None), {"name": "echo", "model": "large"})
    assert message == "oracle 'echo' has no setting 'model' (settings: no settings)"


def test_a_signature_shows_types_without_quotation_marks():
    # The built-ins have postponed annotations, which are strings.
    assert "(settings: model: str = 'gpt-4o-mini', " in message_of(Plugins(), {"name": "openai", "modle": "large"})


def test_the_value_of_an_unknown_setting_is_not_shown():
    assert "sk-secret" not in message_of(Plugins(), {"name": "openai", "api_key": "sk-secret"})


def test_a_missing_setting_is_named_with_the_signature():
    def factory(url: str, retries: int = 3):
        return Echo()

    message = message_of(with_factory(factory), "echo")
    assert message == "oracle 'echo' needs the setting 'url' (settings: url: str, retries: int = 3)"


def test_a_factory_may_take_any_setting():
    assert with_factory(lambda **settings: Echo(settings["model"])).oracle({"name": "echo", "model": "x"}).model == "x"


def test_a_setting_of_a_wrong_type_is_an_error_of_ours():
    message = message_of(Plugins(), {"name": "lsa", "dimensions": "many"}, "embedder")
    assert message.startswith("embedder 'lsa': ")


def test_an_error_that_a_component_raises_itself_is_passed_on():
    with pytest.raises(ClusterLLMError, match="embedder 'lsa': dimensions must be at least 1, not 0"):
        Plugins().embedder({"name": "lsa", "dimensions": 0})


def test_the_values_of_settings_without_a_name_are_not_shown():
    assert "sk-secret" not in message_of(with_factory(Echo), {"api_key": "sk-secret"})


def test_settings_without_a_name_are_an_error():
    assert message_of(with_factory(Echo), {"model": "large"}).endswith("has no name; one of: echo")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("oracle", "oracle 'thing': object has no method answer(questions)"),
        ("embedder", "embedder 'thing': object has no method embed(texts)"),
        ("redactor", "redactor 'thing': object cannot be called with a text"),
    ],
)
def test_what_a_factory_returns_is_checked(kind, message):
    assert message_of(with_factory(object, kind, "thing"), "thing", kind) == message


def test_an_object_of_the_user_is_checked_too():
    assert message_of(Plugins(discover=False), 5).endswith("int has no method answer(questions)")


def test_a_method_must_be_on_the_class():
    oracle = types.SimpleNamespace(fingerprint="x", answer=lambda questions: [])
    assert message_of(Plugins(discover=False), oracle).endswith("has no method answer(questions)")


def test_the_check_evaluates_no_property():
    class Lazy(Echo):
        def __init__(self):
            pass

        @property
        def fingerprint(self):
            raise AssertionError("not needed yet")

    assert isinstance(with_factory(Lazy).oracle("echo"), Lazy)


@pytest.mark.parametrize(
    "factory",
    [
        "clusterllm_no_such_package:Oracle",
        "clusterllm_plugins.errors:NoSuchOracle",
        "clusterllm_failing:Oracle",
        "clusterllm_plugins.plugins:DISTRIBUTION",
        "clusterllm_plugins.plugins:",
        ":Oracle",
    ],
    ids=["no module", "no attribute", "module raises", "not callable", "attribute missing", "module missing"],
)
def test_a_dotted_string_that_cannot_be_loaded_names_plugin_and_string(tmp_path, monkeypatch, factory):
    (tmp_path / "clusterllm_failing.py").write_text("raise OSError('a library is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    message = message_of(with_factory(factory), "echo")
    assert message.startswith(f"oracle 'echo' of plugin 'local': cannot load {factory!r} (")


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)  # as if it were not installed
    with pytest.raises(ClusterLLMError, match=r"pip install 'clusterllm-plugins\[openai\]'"):
        Plugins().oracle("openai")
