"""One run of ``clusterllm cluster``: a file of texts in, a folder of results out.

The folder gets ``clusters.jsonl`` (a line a text), ``summary.json``, the fitted model and, by default, the store of
answers and the cache of vectors. Everything that can be checked is checked before the folder is touched.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.answer_log import AnswerLog
from clusterllm_plugins.artifact import ANSWERS, MANIFEST
from clusterllm_plugins.errors import ArtifactError, DataError
from clusterllm_plugins.files import TextFile, read_texts, text_pieces, write_lines
from clusterllm_plugins.protocols import Labels
from clusterllm_plugins.recording import Known, answer_lines, load_answers, stream_lines
from clusterllm_plugins.store import AnswerStore

if TYPE_CHECKING:
    from clusterllm_plugins.estimator import ClusterLLM

STORE = "answers.sqlite"
CACHE = "vectors"
SETTINGS = "settings.json"
CLUSTERS = "clusters.jsonl"
SUMMARY = "summary.json"
MOST_CLUSTERS_PRINTED = 20


@dataclass
class Run:
    """A run and what it was asked for.

    Attributes:
        file: The texts.
        folder: For the results.
        settings: Of :class:`ClusterLLM`.
        text_field: The field of the text.
        label_field: The field of known categories, for evaluation only.
        answers: Answers already had, as JSONL.
        log: Gets a line for each answer.
        log_texts: Whether texts stand in it.
    """

    file: Path
    folder: Path
    settings: dict[str, Any]
    text_field: str = "text"
    label_field: str | None = None
    answers: Path | None = None
    log: Path | None = None
    log_texts: bool = False

    def execute(self, *, overwrite: bool = False) -> str:
        """Run, write the results and return a summary for people.

        Raises:
            ClusterLLMError: If something given cannot be used.
        """
        data = read_texts(self.file, self.text_field, self.label_field)
        known = load_answers(self.answers, data.texts) if self.answers else []
        # Here: it brings scikit-learn, and an unreadable file is told at once.
        from clusterllm_plugins.estimator import ClusterLLM

        model = ClusterLLM(**self.settings, progress=sys.stderr.isatty())
        model.check(data.texts)
        with ExitStack() as stack:
            if self.log is not None:
                model.add_plugin(stack.enter_context(AnswerLog(self.log, texts=self.log_texts)))
            self._claim_folder(data, known, overwrite=overwrite)
            model.set_params(
                store=self.settings.get("store") or str(self.folder / STORE),
                cache=self.settings.get("cache") or str(self.folder / CACHE),
            )
            model.fit(data.texts, answers=known)
        model.save(self.folder)
        lines = cluster_lines(data.texts, model.labels_, model.cluster_scores_, model.cluster_labels_)
        write_lines(self.folder / CLUSTERS, lines)
        summary = self._summary(model, data)
        write_lines(self.folder / SUMMARY, [json.dumps(summary, ensure_ascii=False, indent=2)])
        return _for_people(summary, self.folder)

    def _claim_folder(self, data: TextFile, known: Known, *, overwrite: bool) -> None:
        """Make the folder, or see that it is of the same settings and texts."""
        wanted = {
            "settings": self._settings_to_keep(),
            "texts": _digest(data.texts),
            "answers": _digest(answer_lines(known)),
        }
        path = self.folder / SETTINGS
        ours = {kept.resolve() for kept in (self.folder / STORE, self.folder / CACHE, self.log) if kept is not None}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
            is_empty = not any(entry.resolve() not in ours for entry in self.folder.iterdir())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "damaged settings"
            raise DataError(f"{self.folder}: cannot be used for output ({reason}); give another folder") from error
        if not overwrite and earlier != wanted and not is_empty:
            what = "holds other files" if earlier is None else "holds results of other settings or texts"
            raise DataError(f"{self.folder}: {what}; give another folder, or --overwrite")
        for name in (SUMMARY, CLUSTERS, MANIFEST):
            (self.folder / name).unlink(missing_ok=True)
        write_lines(path, [json.dumps(wanted, ensure_ascii=False, indent=2)])

    def _settings_to_keep(self) -> dict[str, Any]:
        """Return the settings as JSON has them, their texts redacted."""
        from clusterllm_plugins.components import redaction_of

        settings = dict(self.settings)
        if settings.get("demonstrations"):
            redaction = redaction_of(settings.get("redact") or ())
            settings["demonstrations"] = redaction.demonstrations(settings["demonstrations"])
        kept: dict[str, Any] = json.loads(json.dumps(settings, default=str))
        return kept

    def _summary(self, model: ClusterLLM, data: TextFile) -> dict[str, Any]:
        sizes = np.bincount(model.labels_[model.labels_ >= 0], minlength=model.n_clusters_)
        summary: dict[str, Any] = {
            "texts": len(data.texts),
            "n_clusters": model.n_clusters_,
            "clusters": [
                {"cluster_id": number, "size": int(size), "cluster_label": name}
                for number, (size, name) in enumerate(zip(sizes, model.cluster_labels_, strict=True))
            ],
            "usage": vars(model.usage_),
            "report": model.report_,
        }
        if data.labels is not None:
            from clusterllm_plugins.metrics import evaluate

            kept = model.labels_ >= 0
            summary["evaluation"] = evaluate(np.array(data.labels)[kept].tolist(), model.labels_[kept])
        return summary


def cluster_lines(
    texts: Sequence[str], labels: Labels, scores: NDArray[np.float64], names: Sequence[str]
) -> Iterator[str]:
    """Yield a JSON line for each text: ``text, cluster_id, cluster_label, cluster_score``."""
    for text, label, score in zip(texts, labels.tolist(), scores.tolist(), strict=True):
        record = {
            "text": text,
            "cluster_id": label,
            "cluster_label": names[label] if label >= 0 else "",
            "cluster_score": round(score, 6),
        }
        yield json.dumps(record, ensure_ascii=False)


def predicted_lines(model: ClusterLLM, file: Path, text_field: str = "text") -> Iterator[str]:
    """Yield the lines of :func:`cluster_lines` for the texts of a file, which is read in pieces as they are wanted.

    Args:
        model: A fitted one.
        file: The texts.
        text_field: The field of the text.

    Raises:
        DataError: If the file cannot be read, or when a line is reached that is not what the format says.
        ClusterLLMError: If the model cannot embed texts.
    """
    for texts in text_pieces(file, text_field):
        labels, scores = model.predict_with_scores(texts)
        yield from cluster_lines(texts, labels, scores, model.cluster_labels_)


def recorded_lines(folder: Path) -> Iterator[str]:
    """Return lines of what was asked and answered: of the finished run in ``folder``, else what its store has so far.

    Args:
        folder: The output of a run, or the file of a store; of a file, what all oracles answered.

    Raises:
        ArtifactError: If there is neither.
    """
    if (folder / MANIFEST).is_file() and (folder / ANSWERS).is_file():
        return stream_lines(folder / ANSWERS)
    if (path := folder if folder.is_file() else folder / STORE).is_file():
        return _stored_lines(path)
    raise ArtifactError(f"{folder}: no run of `clusterllm cluster` (neither {MANIFEST} nor {STORE})")


def _stored_lines(path: Path) -> Iterator[str]:
    with AnswerStore(path) as store:
        yield from answer_lines((question, answer) for _, question, answer in store)
        yield from answer_lines((group, answer) for _, group, answer in store.names())


def explain_line(folder: Path, line: str) -> dict[str, Any]:
    """Return why the text on a line of the input is where it is.

    Args:
        folder: The output of a run, or a saved model, which has no texts.
        line: The number of the text, from 1, as the user wrote it.

    Returns:
        ``line``, and what :meth:`ClusterLLM.explain` returns, with the text of ``clusters.jsonl``.

    Raises:
        ClusterLLMError: If the folder is none, or has no such line.
    """
    from clusterllm_plugins.estimator import ClusterLLM

    try:
        number = int(line) if line.isascii() and line.isdigit() else 0
    except ValueError:  # thousands of digits
        number = 0
    if number < 1:
        raise DataError(f"LINE is the number of a text, from 1, not {line[:40]!r}")
    model = ClusterLLM.load(folder)
    if number > len(model.labels_):
        raise DataError(f"{folder}: has {len(model.labels_)} texts, there is no line {number}")
    explanation = model.explain(number - 1)
    if (folder / CLUSTERS).is_file():
        explanation["text"] = _clustered_text(folder / CLUSTERS, number, explanation["cluster_id"])
    return {"line": number, **explanation}


def _clustered_text(path: Path, number: int, cluster: int) -> str:
    """Return the text on a line of ``clusters.jsonl``, which must be of the model beside it."""
    try:
        with path.open(encoding="utf-8") as file:
            record = json.loads(next(islice(file, number - 1, None), ""))
        if record["cluster_id"] == cluster:
            return str(record["text"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}, line {number}: damaged; run `clusterllm cluster` again") from error
    raise ArtifactError(f"{path}, line {number}: is of another model; run `clusterllm cluster` again")


def _digest(lines: Sequence[str] | Iterator[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()


def _for_people(summary: dict[str, Any], folder: Path) -> str:
    lines = [f"{summary['n_clusters']} clusters of {summary['texts']} texts, written to {folder}"]
    largest = sorted(summary["clusters"], key=lambda cluster: -cluster["size"])
    lines += [f"{cluster['size']:>7}  {cluster['cluster_label']}" for cluster in largest[:MOST_CLUSTERS_PRINTED]]
    if len(largest) > MOST_CLUSTERS_PRINTED:
        lines.append(f"... and {len(largest) - MOST_CLUSTERS_PRINTED} more")
    questions = summary["report"]["questions"]
    if questions:
        counts = ", ".join(f"{count} {name}" for name, count in questions.items() if count and name != "names")
        names = ", ".join(f"{count} {name}" for name, count in summary["report"]["names"].items() if count)
        naming = f"; names: {names}" if names else ""
        lines.append(f"questions: {counts or 'none'}{naming}; tokens: {_tokens(summary)}")
    paid = summary["report"]["embedding"]
    taken = f" ({paid['input_tokens']} tokens)" if paid else ""
    lines.append(f"embedder: {summary['report']['embedder']}{taken}; refinement: {summary['report']['refinement']}")
    if summary["report"]["oracle_note"]:
        lines.append(f"note: {summary['report']['oracle_note']}")
    if "evaluation" in summary:
        measures = summary["evaluation"]
        lines.append(
            f"against the labels: ACC {100 * measures['acc']:.1f}, NMI {100 * measures['nmi']:.1f}, "
            f"ARI {100 * measures['ari']:.1f}"
        )
    return "\n".join(lines)


def _tokens(summary: dict[str, Any]) -> int:
    return int(summary["usage"]["input_tokens"] + summary["usage"]["output_tokens"])
