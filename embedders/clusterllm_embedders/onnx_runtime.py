"""ONNX Runtime in place of torch for a model's transformer, on the CPU in fp32.

The transformer is exported when it is first used, into a temporary folder; pooling and whatever comes after it stay
modules of sentence-transformers. int8 is not offered: it moves the vectors too far (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterllm_plugins.errors import ClusterLLMError

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

_OPSET = 18
_SAMPLE = ["a sample", "another sample of more tokens"]  # its shape is free in the exported graph


class OnnxForward:
    """Takes features through an exported transformer and the model's other modules.

    Args:
        model: On the CPU.
        name: Of the model, for errors.

    Raises:
        ClusterLLMError: If the model's transformer cannot be exported.
    """

    def __init__(self, model: SentenceTransformer, name: str) -> None:
        self._rest = list(model)[1:]
        transformer = getattr(model, "transformers_model", None)
        if transformer is None:
            raise ClusterLLMError(f"backend 'onnx': {name!r} has no transformer to export; take backend 'torch'")
        sample = {key: value for key, value in model.preprocess(list(_SAMPLE)).items() if hasattr(value, "shape")}
        self._names = list(sample)
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                _export(transformer, sample, path)
                self._session = _session(path)
        except Exception as error:  # whatever an exporter does not know
            reason = str(error).strip().split("\n", 1)[0]
            raise ClusterLLMError(
                f"backend 'onnx': {name!r} cannot be exported ({type(error).__name__}: {reason}); take backend 'torch'"
            ) from error

    def __call__(self, features: dict[str, Any]) -> torch.Tensor:
        """Return vectors, shape (rows, dim)."""
        import torch

        (hidden,) = self._session.run(None, {name: features[name].numpy() for name in self._names})
        features = features | {"token_embeddings": torch.from_numpy(hidden)}
        for module in self._rest:
            features = module(features)
        vectors: torch.Tensor = features["sentence_embedding"]
        return vectors


def _export(transformer: torch.nn.Module, sample: dict[str, torch.Tensor], path: Path) -> None:
    import torch

    names = list(sample)

    class LastHidden(torch.nn.Module):
        """Takes the features in order and returns the hidden state of each token."""

        def __init__(self) -> None:
            super().__init__()
            self.transformer = transformer

        def forward(self, *values: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.transformer(**dict(zip(names, values, strict=True))).last_hidden_state
            return hidden

    free = {name: {0: "rows", 1: "tokens"} for name in (*names, "hidden")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter: its own age, and constants that it folds
        # The older exporter: it needs no further package, and ONNX Runtime makes faster graphs of what it writes.
        torch.onnx.export(
            LastHidden().eval(),
            tuple(sample.values()),
            str(path),
            input_names=names,
            output_names=["hidden"],
            dynamic_axes=free,
            opset_version=_OPSET,
            dynamo=False,
        )


def _session(path: Path) -> Any:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
