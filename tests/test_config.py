"""Settings of the command line: a TOML file, over it options, over it ``--set``."""

import inspect
import os

import pytest

from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.config import merge, parse_n_clusters, read_config, setting_names
from clusterllm_plugins.errors import ClusterLLMError

KNOWN = ", ".join(setting_names())


@pytest.fixture
def config(tmp_path):
    """Return a function that writes a config and returns its path."""

    def config(content):
        path = tmp_path / "config.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return config


def message_of(function, *arguments):
    """Return what the error says, in which a path stands without its folder."""
    with pytest.raises(ClusterLLMError) as caught:
        function(*arguments)
    folders = [f"{argument.parent}{os.sep}" for argument in arguments if isinstance(argument, os.PathLike)]
    return str(caught.value).replace(folders[0] if folders else "\0", "")


# --- the file --------------------------------------------------------------------------------------------------


def test_settings_and_tables_of_components_are_read(config):
    path = config('n_clusters = [2, 9]\n\n[oracle]\nname = "openai"\nmodel = "gpt-4o"\n')
    assert read_config(path) == {"n_clusters": [2, 9], "oracle": {"name": "openai", "model": "gpt-4o"}}


def test_an_empty_config_sets_nothing(config):
    assert read_config(config("")) == {}


def test_every_setting_of_the_estimator_but_progress_is_one_of_a_config():
    assert {*setting_names(), "progress"} == set(inspect.signature(ClusterLLM).parameters)


def test_a_misspelt_key_has_a_close_match_and_the_known_ones(config):
    assert message_of(read_config, config("n_cluster = 3")) == (
        f"config.toml: unknown setting 'n_cluster'; did you mean 'n_clusters'? (settings: {KNOWN})"
    )


def test_a_key_far_from_all_has_no_close_match(config):
    assert message_of(read_config, config("quartz = 3")) == f"config.toml: unknown setting 'quartz' (settings: {KNOWN})"


def test_progress_is_not_for_a_config(config):
    assert message_of(read_config, config("progress = true")).startswith("config.toml: unknown setting 'progress'")


def test_a_missing_config_is_an_error(tmp_path):
    message = message_of(read_config, tmp_path / "config.toml")
    assert message == "config.toml: cannot read the config (No such file or directory)"


@pytest.mark.parametrize("content", ["n_clusters: 3", "n_clusters = ", "n_clusters = 3\nn_clusters = 4", b"\xff = 3"])
def test_what_is_not_toml_is_an_error(config, content):
    assert message_of(read_config, config(content)).startswith("config.toml: not a TOML file (")


def test_a_byte_order_mark_does_not_matter(config):
    assert read_config(config("\ufeffn_clusters = 3")) == {"n_clusters": 3}


# --- what goes over what ---------------------------------------------------------------------------------------


def test_nothing_given_sets_nothing():
    assert merge({}, {"oracle": None, "n_clusters": None}, []) == {}


def test_an_option_goes_over_the_config():
    assert merge({"max_questions": 5}, {"max_questions": 7}, []) == {"max_questions": 7}


def test_an_option_that_is_not_given_leaves_the_config():
    assert merge({"max_questions": 5}, {"max_questions": None}, []) == {"max_questions": 5}


def test_an_option_of_zero_is_given():
    assert merge({"max_questions": 5}, {"max_questions": 0}, []) == {"max_questions": 0}


def test_set_goes_over_options():
    assert merge({"max_questions": 5}, {"max_questions": 7}, ["max_questions=9"]) == {"max_questions": 9}


def test_the_last_set_counts():
    assert merge({}, {}, ["max_questions=5", "max_questions=9"]) == {"max_questions": 9}


@pytest.mark.parametrize("config", [{"oracle": "openai"}, {"oracle": {"name": "openai"}}])
def test_a_component_is_a_name_or_a_table(config):
    assert merge(config, {}, []) == {"oracle": {"name": "openai"}}


def test_an_option_names_a_component():
    assert merge({}, {"embedder": "lsa"}, []) == {"embedder": {"name": "lsa"}}


def test_another_component_takes_the_settings_of_the_first_along():
    assert merge({"oracle": {"name": "openai", "model": "x"}}, {"oracle": "replay"}, []) == {
        "oracle": {"name": "replay"}
    }


def test_the_same_component_keeps_its_settings():
    config = {"oracle": {"name": "openai", "model": "x"}}
    assert merge(config, {"oracle": "openai"}, []) == config


def test_set_adds_a_setting_to_the_component_of_the_config():
    merged = merge({"oracle": {"name": "openai", "model": "x"}}, {}, ["oracle.timeout=5"])
    assert merged == {"oracle": {"name": "openai", "model": "x", "timeout": 5}}


def test_set_adds_a_setting_to_the_component_of_an_option():
    merged = merge({}, {"oracle": "openai"}, ["oracle.model=gpt-4o"])
    assert merged == {"oracle": {"name": "openai", "model": "gpt-4o"}}


def test_set_names_a_component_and_its_settings():
    merged = merge({}, {}, ["oracle=openai", "oracle.model=gpt-4o"])
    assert merged == {"oracle": {"name": "openai", "model": "gpt-4o"}}


def test_set_turns_the_oracle_of_the_config_off():
    assert merge({"oracle": {"name": "openai"}}, {}, ["oracle=null"]).get("oracle") is None


def test_the_config_given_is_left_alone():
    config = {"oracle": {"name": "openai"}}
    merge(config, {}, ["oracle.model=gpt-4o"])
    assert config == {"oracle": {"name": "openai"}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("[2, 9]", [2, 9]),
        ('"5"', "5"),
        ("in terms of colour", "in terms of colour"),
        ("", ""),
        ("a=b", "a=b"),
        ("http://localhost:8000/v1?key=x", "http://localhost:8000/v1?key=x"),
    ],
)
def test_a_value_is_json_or_else_a_text(text, value):
    assert merge({}, {}, [f"instruction={text}"]) == {"instruction": value}


@pytest.mark.parametrize("assignment", ["n_clusters", "=5", ""])
def test_set_without_key_or_value_shows_how_it_is_written(assignment):
    message = message_of(merge, {}, {}, [assignment])
    assert message == f"--set {assignment!r}: write KEY=VALUE, for example oracle.model=gpt-4o"


@pytest.mark.parametrize("key", ["n_cluster", "n_cluster.low"])
def test_set_of_an_unknown_setting_has_a_close_match(key):
    message = message_of(merge, {}, {}, [f"{key}=3"])
    assert message == f"--set: unknown setting 'n_cluster'; did you mean 'n_clusters'? (settings: {KNOWN})"


def test_only_components_have_settings_of_their_own():
    message = message_of(merge, {}, {}, ["n_clusters.low=3"])
    assert message == "--set n_clusters.low: only embedder and oracle have settings of their own"


@pytest.mark.parametrize("config", [{}, {"oracle": {"model": "gpt-4o"}}])
def test_settings_of_no_component_are_an_error(config):
    message = message_of(merge, config, {}, ["oracle.timeout=5"])
    assert message == "oracle.name is missing: say which oracle these settings are for"


@pytest.mark.parametrize("value", [5, True, ["openai"]])
@pytest.mark.parametrize(("options", "assignments"), [({}, []), ({"oracle": "openai"}, []), ({}, ["oracle.model=x"])])
def test_a_component_that_is_neither_name_nor_table_is_an_error(value, options, assignments):
    message = message_of(merge, {"oracle": value}, options, assignments)
    assert message == f"oracle must be a name or a table with a name, not {value!r}"


# --- the number of clusters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"), [("auto", "auto"), ("7", 7), ("20-80", (20, 80)), ("0", 0), ("5-3", (5, 3))]
)
def test_a_number_a_range_or_auto_is_read(text, number):
    assert parse_n_clusters(text) == number


@pytest.mark.parametrize("text", ["", "x", "-3", "3-", "-", "1.5", "2-3-4", "Auto", "²", "1e3", "20 - 80"])
def test_anything_else_is_an_error(text):
    assert message_of(parse_n_clusters, text) == f"--n-clusters takes a number, LOW-HIGH or auto, not {text!r}"
