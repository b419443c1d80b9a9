"""What spaCy sees of the package: entry points, imports, factories, attributes, pipe analysis."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import spacy
from spacy.tokens import Doc, Span

from clusterllm_plugins.spacy import ClusterLLMClusterer, ClusterLLMEmbedder, ClusterLLMGranularity
from clusterllm_plugins.spacy.attributes import Attributes
from spacy_kit import LSA, fitted, pipeline

HEAVY = ["sentence_transformers", "sklearn", "scipy", "openai", "haystack", "clusterllm_plugins.estimator"]
FOUND = f"print([name for name in {HEAVY} if name in sys.modules])"
FACTORIES = ["clusterllm", "clusterllm_embedder", "clusterllm_granularity"]


def run(code):
    """Return what a new process prints, in which nothing of ours was imported before."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def mine(group):
    return sorted(point.name for point in entry_points(group=group) if point.dist.name == "clusterllm-plugins")


def test_the_factories_come_through_entry_points():
    assert mine("spacy_factories") == FACTORIES


def test_no_factory_name_holds_a_dot():
    # spaCy reads what stands before one as a language.
    assert [name for name in mine("spacy_factories") if "." in name] == []


def test_functions_of_a_config_come_through_entry_points():
    assert mine("spacy_misc") == ["clusterllm.Embedder.v1", "clusterllm.Oracle.v1"]
    assert mine("spacy_readers") == ["clusterllm.DocBin.v1", "clusterllm.Jsonl.v1"]
    assert mine("spacy_scorers") == ["clusterllm.scorer.v1"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("misc", "clusterllm.Oracle.v1"),
        ("misc", "clusterllm.Embedder.v1"),
        ("readers", "clusterllm.Jsonl.v1"),
        ("readers", "clusterllm.DocBin.v1"),
        ("scorers", "clusterllm.scorer.v1"),
    ],
)
def test_a_function_is_found_where_nothing_was_imported(kind, name):
    assert run(f"from spacy.util import registry; print(callable(registry.{kind}.get({name!r})))") == "True"


def test_components_are_there_without_an_import():
    assert run(f"import spacy; print([spacy.blank('en').has_factory(name) for name in {FACTORIES}])") == str([True] * 3)


def test_a_blank_pipeline_imports_nothing_heavy():
    code = f"import sys, spacy; spacy.blank('en'); {FOUND}"
    assert run(code) == "[]"
    assert (
        run("import sys, spacy; spacy.blank('en'); print('clusterllm_plugins.spacy.factories' in sys.modules)")
        == "True"
    )


def test_making_components_imports_nothing_heavy():
    code = f"import sys, spacy; nlp = spacy.blank('en'); [nlp.add_pipe(name) for name in {FACTORIES}]; {FOUND}"
    assert run(code) == "[]"


def test_predicting_on_vectors_needs_numpy_only(texts, tmp_path):
    nlp = pipeline(embedder=None, vectors="doc.tensor")
    nlp.add_pipe("tok2vec", first=True)
    nlp.initialize()
    nlp.get_pipe("clusterllm").fit([nlp.make_doc(text) for text in texts])
    nlp.to_disk(tmp_path)
    code = (
        f"import sys, spacy; spacy.load({str(tmp_path)!r})('late')._.clusterllm_cluster in (0, 1, 2) or 1 / 0; {FOUND}"
    )
    assert run(code) == "[]"


def test_a_broken_plugin_does_not_break_spacy(tmp_path):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[clusterllm]\nbroken = no_such_module\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import spacy; "
        "spacy.blank('en').add_pipe('clusterllm_embedder', config={'embedder': 'lsa'}); print('fine')"
    )
    assert run(code) == "fine"


@pytest.mark.parametrize(
    ("factory", "kind"),
    [
        ("clusterllm", ClusterLLMClusterer),
        ("clusterllm_embedder", ClusterLLMEmbedder),
        ("clusterllm_granularity", ClusterLLMGranularity),
    ],
)
def test_each_factory_makes_its_component(factory, kind):
    component = spacy.blank("en").add_pipe(factory, name="mine")
    assert isinstance(component, kind)
    assert component.name == "mine"
    assert not component.is_trainable


@pytest.mark.parametrize("factory", FACTORIES)
def test_each_default_is_that_of_the_component(factory):
    import inspect

    meta = spacy.blank("en").get_factory_meta(factory)
    kind = type(spacy.blank("en").add_pipe(factory))
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in ("nlp", "name", "scorer"):
            continue
        default = meta.default_config[name]
        assert (tuple(default) if isinstance(default, list) else default) == parameter.default


def test_works_in_another_language(texts):
    assert fitted(texts, lang="xx")(texts[0])._.clusterllm_cluster in range(3)


def test_the_default_attributes_are_there_before_any_component():
    spacy.blank("en")
    for name in ("vector", "space", "cluster", "label", "score", "n_clusters"):
        assert Doc.has_extension(f"clusterllm_{name}")
        assert Span.has_extension(f"clusterllm_{name}")


def test_an_attribute_that_somebody_has_registered_stays(texts):
    Doc.set_extension("taken_cluster", default="mine")
    spacy.blank("en").add_pipe("clusterllm", config={"prefix": "taken"})
    assert Doc.get_extension("taken_cluster")[0] == "mine"


def test_names_follow_the_prefix():
    names = Attributes("mood")
    assert (names.vector, names.space, names.cluster) == ("mood_vector", "mood_space", "mood_cluster")
    assert (names.label, names.score, names.n_clusters) == ("mood_label", "mood_score", "mood_n_clusters")


@pytest.mark.parametrize("prefix", ["", "two words", "1st", 3])
def test_a_prefix_must_be_a_name(prefix):
    with pytest.raises(ValueError, match=f"prefix must be a name such as 'clusterllm', not {prefix!r}"):
        Attributes(prefix)


def test_the_pipe_analysis_is_content():
    nlp = spacy.blank("en")
    for name in ("clusterllm_embedder", "clusterllm_granularity", "clusterllm"):
        nlp.add_pipe(name)
    analysis = nlp.analyze_pipes(pretty=True)
    assert analysis["problems"] == {name: [] for name in nlp.pipe_names}
    assert analysis["attrs"]["doc._.clusterllm_cluster"]["assigns"] == ["clusterllm"]


def test_the_pipe_analysis_misses_the_embedder():
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm")
    assert nlp.analyze_pipes()["problems"]["clusterllm"] == ["doc._.clusterllm_vector"]


def test_the_labels_of_the_pipeline_are_the_clusters_names(texts):
    nlp = pipeline()
    assert nlp.pipe_labels["clusterllm"] == []
    nlp = fitted(texts)
    assert nlp.pipe_labels["clusterllm"] == list(nlp.get_pipe("clusterllm").labels)
    assert len(set(nlp.pipe_labels["clusterllm"])) == 3


def test_the_meta_holds_the_labels(texts):
    assert len(fitted(texts).meta["labels"]["clusterllm"]) == 3


def test_the_pipeline_requires_this_package_once():
    nlp = spacy.blank("en")
    for name in FACTORIES:
        nlp.add_pipe(name)
    assert nlp.meta["requirements"] == ["clusterllm-plugins[spacy]>=0.1.0,<0.2.0"]


def test_lsa_settings_reach_the_embedder():
    nlp = spacy.blank("en")
    embedder = nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA}).embedder
    assert embedder.dimensions == 8
