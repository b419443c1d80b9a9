"""The custom attributes that the components set on docs and spans, under a prefix of the user's choice."""

from __future__ import annotations

from dataclasses import dataclass

from spacy.tokens import Doc, Span

from clusterllm_plugins.errors import ClusterLLMError

PREFIX = "clusterllm"


@dataclass(frozen=True)
class Attributes:
    """Names of custom attributes: ``doc._.clusterllm_cluster`` and its like.

    Args:
        prefix: What they start with; two components with two prefixes do not disturb each other.

    Raises:
        ClusterLLMError: If the prefix cannot stand in an attribute's name.
    """

    prefix: str = PREFIX

    def __post_init__(self) -> None:
        if not isinstance(self.prefix, str) or not self.prefix.isidentifier():
            raise ClusterLLMError(f"prefix must be a name such as 'clusterllm', not {self.prefix!r}")

    @property
    def vector(self) -> str:
        """float32, shape (dim,)."""
        return f"{self.prefix}_vector"

    @property
    def space(self) -> str:
        """Which state of which embedder the vector is of, a text; a clusterer refuses vectors of another one."""
        return space_of(self.vector)

    @property
    def cluster(self) -> str:
        """The number of the cluster, -1 for an empty text."""
        return f"{self.prefix}_cluster"

    @property
    def label(self) -> str:
        """The name of the cluster, empty for an empty text."""
        return f"{self.prefix}_label"

    @property
    def score(self) -> str:
        """The soft-assignment probability of the cluster, in [0, 1]."""
        return f"{self.prefix}_score"

    @property
    def n_clusters(self) -> str:
        """How many clusters there are."""
        return f"{self.prefix}_n_clusters"

    def register(self, *names: str) -> None:
        """Make custom attributes known to spaCy; one that somebody has registered already stays as it is."""
        for owner in (Doc, Span):
            for name in names:
                if not owner.has_extension(name):
                    owner.set_extension(name, default=None)


DEFAULT_VECTORS = f"doc._.{Attributes().vector}"


def space_of(vector: str) -> str:
    """Return the attribute that says which space a vector attribute's values are of."""
    return f"{vector.removesuffix('_vector')}_space"


def register_defaults() -> None:
    """Register the attributes of the default prefix, so that stored docs can be read without a component."""
    names = Attributes()
    names.register(names.vector, names.space, names.cluster, names.label, names.score, names.n_clusters)
