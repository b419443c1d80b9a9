"""Pipelines, oracles and a plugin that the tests of the spaCy components share."""

import sys
from textwrap import dedent

import numpy as np
import spacy

from clusterllm_plugins import Answer, Usage

LSA = {"name": "lsa", "dimensions": 8}


def pipeline(embedder=LSA, lang="en", **settings):
    """Return a blank pipeline with an embedder and a clusterer; ``embedder=None`` leaves the first one out."""
    nlp = spacy.blank(lang)
    if embedder is not None:
        nlp.add_pipe("clusterllm_embedder", config={"embedder": embedder})
    nlp.add_pipe("clusterllm", config={"n_clusters": 3, "method": "paper", "progress": False} | settings)
    return nlp


def fitted(texts, embedder=LSA, **settings):
    """Return such a pipeline, fitted on texts."""
    nlp = pipeline(embedder, **settings)
    fit(nlp, texts)
    return nlp


def fit(nlp, texts, name="clusterllm", **arguments):
    # The pipeline is given, since a pickled component does not know its own.
    nlp.get_pipe(name).fit([nlp.make_doc(text) for text in texts], nlp=nlp, **arguments)


def corpus(texts):
    """Return a reader of these texts."""
    return lambda nlp: [nlp.make_doc(text) for text in texts]


def clusters(docs, prefix="clusterllm"):
    return [doc._.get(f"{prefix}_cluster") for doc in docs]


def results(docs):
    """Return all that the components have put on docs, to be compared to the last bit."""
    names = ("cluster", "label", "score", "space")
    return [(*(doc._.get(f"clusterllm_{name}") for name in names), doc._.clusterllm_vector.tobytes()) for doc in docs]


def same_partition(labels, truth):
    """Return whether two labellings make the same groups."""
    pairs = set(zip(labels, truth, strict=True))
    return len(pairs) == len(set(labels)) == len(set(truth))


class ByTruth:
    """An oracle that knows the categories."""

    fingerprint = "by-truth"

    def __init__(self, texts, truth):
        self.category = dict(zip(texts, truth, strict=True))
        self.asked = []

    def answer(self, questions):
        for question in questions:
            self.asked.append(question)
            mine = self.category[question.anchor]
            fits = [any(self.category[text] == mine for text in group) for group in question.groups]
            if question.kind == "pair":
                choice = "yes" if fits[0] else "no"
            else:
                choice = str(fits.index(True) + 1) if any(fits) else None
            yield Answer(choice, usage=Usage(10, 1, 1))


def with_vectors(nlp, size=4):
    """Give a pipeline static vectors: a word's are those of its first letter."""
    rng = np.random.default_rng(0)
    letters = {letter: rng.normal(size=size).astype(np.float32) for letter in "abcdefghijklmnopqrstuvwxyz"}
    nlp.vocab.reset_vectors(width=size)

    def learn(words):
        for word in words:
            nlp.vocab.set_vector(word, letters[word[0].lower()])

    return learn


# A plugin with an embedder that can be trained: vectors of hashed words, which answers scale.
TRAINABLE = """
    import json
    import os
    import zlib
    import numpy as np
    from clusterllm_plugins import hookimpl

    class Words:
        def __init__(self, size=16, device=None, path=None):
            self.size = size
            self.device = device
            self.scale = np.ones(size, dtype=np.float32)
            if path is not None:
                self.scale = np.array(json.loads(open(f"{path}/weights/scale.json").read()), dtype=np.float32)

        @property
        def fingerprint(self):
            return f"words:{self.size}:{self.scale.sum()}"

        def embed(self, texts):
            rows = np.zeros((len(texts), self.size), dtype=np.float32)
            for row, text in zip(rows, texts):
                if "boom" in text:
                    raise RuntimeError("boom")
                for word in text.split():
                    row[zlib.crc32(word.encode()) % self.size] += 1
            return rows * self.scale

        def finetune(self, texts, triplets, *, seed=0, progress=False):
            tuned = Words(self.size)
            tuned.scale = self.scale + np.arange(self.size, dtype=np.float32) / (10 + len(triplets))
            return tuned

        def save(self, folder):
            os.mkdir(f"{folder}/weights")
            with open(f"{folder}/weights/scale.json", "w") as file:
                json.dump(self.scale.tolist(), file)

    @hookimpl
    def register_embedders(register):
        register("words", Words)

    @hookimpl
    def register_redactors(register):
        register("shout", lambda: str.upper)
        register("hide", lambda: lambda text: text.replace("secret", ""))
"""


def install_plugin(folder, module="clusterllm_words", source=TRAINABLE):
    """Write a plugin's module and metadata into a folder that is on ``sys.path``."""
    (folder / f"{module}.py").write_text(dedent(source))
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[clusterllm]\nwords = {module}\n")
    sys.modules.pop(module, None)
