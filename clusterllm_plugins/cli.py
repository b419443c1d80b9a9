"""The command ``clusterllm``: a thin layer over :class:`ClusterLLM`; see also :mod:`clusterllm_plugins.runs`.

Exit codes: 0 done, 2 the user's mistake (one line on the error output), 1 anything else.
"""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning
from clusterllm_plugins.keys import without_keys
from clusterllm_plugins.questions import OracleError

LISTED_WIDTH = 120  # columns

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Cluster texts with the help of a large language model.",
)

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help=".jsonl, .csv, .txt (a text a line) or .parquet")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="the output of `clusterllm cluster`")]
TextField = Annotated[str, typer.Option(help="field or column that holds the text")]
Embedder = Annotated[str | None, typer.Option(help="name of an embedder (default: minilm where installed, else lsa)")]
Oracle = Annotated[
    str | None, typer.Option(help="name of an oracle, as `clusterllm oracles` lists it (default: nobody is asked)")
]
NClusters = Annotated[str | None, typer.Option("--n-clusters", help="a number, LOW-HIGH, or auto")]
Method = Annotated[str | None, typer.Option(help="auto or paper")]
MaxQuestions = Annotated[int | None, typer.Option(help="hard cap on distinct questions (default: 1024)")]
MaxCost = Annotated[float | None, typer.Option(help="hard cap in US dollars")]
Instruction = Annotated[str | None, typer.Option(help='the perspective: "in terms of the customer\'s intent"')]
Config = Annotated[Path | None, typer.Option("--config", "-c", help="TOML file with any of these settings")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="any setting, for example oracle.model=gpt-4o; may be repeated")
]
RandomState = Annotated[int | None, typer.Option(help="seed")]
Redact = Annotated[list[str] | None, typer.Option(help="name of a redactor, for example emails; may be repeated")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="file to write instead of printing")]


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Show a user's mistake as one line with exit code 2, and warnings as one line each."""
    shown: set[str] = set()

    def show(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
        prefix = "warning" if issubclass(category, ClusterLLMWarning) else category.__name__
        line = without_keys(f"{prefix}: {message}")
        if line not in shown:  # plugins are looked for more than once
            print(line, file=sys.stderr)
        shown.add(line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ClusterLLMWarning)
        warnings.showwarning = show
        try:
            yield
        except (ClusterLLMError, OracleError) as error:
            print(f"error: {_in_one_line(error)}", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("stopped: the same command goes on where it was; no answer is lost", file=sys.stderr)
            raise typer.Exit(1) from None


def _in_one_line(error: Exception) -> str:
    return without_keys(" ".join(str(error).split()))  # one may stand where it does not belong


@app.command(epilog="Example: clusterllm cluster messages.jsonl -o out --oracle openai --n-clusters 20-60")
def cluster(
    file: FileArgument,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="folder for the results")],
    text_field: TextField = "text",
    label_field: Annotated[str | None, typer.Option(help="field of known categories, for evaluation only")] = None,
    embedder: Embedder = None,
    oracle: Oracle = None,
    n_clusters: NClusters = None,
    method: Method = None,
    max_questions: MaxQuestions = None,
    max_cost: MaxCost = None,
    instruction: Instruction = None,
    store: Annotated[Path | None, typer.Option(help="file of the answers (default: DIR/answers.sqlite)")] = None,
    answers: Annotated[Path | None, typer.Option(help="answers already had, as JSONL")] = None,
    random_state: RandomState = None,
    redact: Redact = None,
    config: Config = None,
    assignments: Assignments = None,
    overwrite: Annotated[bool, typer.Option(help="replace results of other settings (answers are kept)")] = False,
    log: Annotated[Path | None, typer.Option(help="file that gets a JSON line for each answer, without texts")] = None,
    log_texts: Annotated[bool, typer.Option("--log-texts", help="write texts into the log, too")] = False,
) -> None:
    """Cluster the texts of FILE and write clusters, a summary and the fitted model to DIR."""
    from clusterllm_plugins.runs import Run

    with _one_line_errors():
        settings = _settings(
            config,
            assignments,
            embedder=embedder,
            oracle=oracle,
            n_clusters=n_clusters,
            method=method,
            max_questions=max_questions,
            max_cost=max_cost,
            instruction=instruction,
            store=None if store is None else str(store),
            random_state=random_state,
            redact=redact or None,
        )
        if log_texts and log is None:
            raise ClusterLLMError("--log-texts says what is in a log: give --log FILE, too")
        run = Run(file, output, settings, text_field, label_field, answers, log, log_texts)
        typer.echo(run.execute(overwrite=overwrite))


@app.command(epilog="Example: clusterllm predict out new.jsonl -o predicted.jsonl")
def predict(folder: FolderArgument, file: FileArgument, text_field: TextField = "text", output: Output = None) -> None:
    """Assign the texts of FILE to the clusters in DIR, as JSON Lines; asks nobody."""
    with _one_line_errors():
        from clusterllm_plugins.estimator import ClusterLLM
        from clusterllm_plugins.runs import predicted_lines

        _emit(predicted_lines(ClusterLLM.load(folder), file, text_field), output)


@app.command(epilog="Example: clusterllm quote messages.jsonl --oracle openai --n-clusters auto")
def quote(
    file: FileArgument,
    text_field: TextField = "text",
    embedder: Embedder = None,
    oracle: Oracle = None,
    n_clusters: NClusters = None,
    method: Method = None,
    max_questions: MaxQuestions = None,
    instruction: Instruction = None,
    random_state: RandomState = None,
    redact: Redact = None,
    show: Annotated[
        int, typer.Option(min=0, metavar="N", help="show the first N questions as they would be sent, too")
    ] = 0,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Say what `cluster` would ask and cost, expected and at most, as JSON; nothing is asked."""
    with _one_line_errors():
        from clusterllm_plugins.estimator import ClusterLLM
        from clusterllm_plugins.files import read_texts
        from clusterllm_plugins.prompts import render

        settings = _settings(
            config,
            assignments,
            embedder=embedder,
            oracle=oracle,
            n_clusters=n_clusters,
            method=method,
            max_questions=max_questions,
            instruction=instruction,
            random_state=random_state,
            redact=redact or None,
        )
        texts = read_texts(file, text_field).texts
        model = ClusterLLM(**settings)
        quoted = model.quote(texts)
        prompts = [render(question) for question in model.first_questions(texts, show)] if show else []
        typer.echo(json.dumps(quoted, indent=2))
        for number, prompt in enumerate(prompts, start=1):
            typer.echo(f"\n--- question {number} of {len(prompts)} shown ---\n{prompt}")


@app.command(epilog="Example: clusterllm answers out -o answers.jsonl")
def answers(folder: FolderArgument, output: Output = None) -> None:
    """Print what was asked and answered, as JSON Lines that --answers and the oracle replay read."""
    with _one_line_errors():
        from clusterllm_plugins.runs import recorded_lines

        _emit(recorded_lines(folder), output)


@app.command(
    epilog="Example: clusterllm explain out 3",
    context_settings={"ignore_unknown_options": True},  # -1 is a wrong number, not an option
)
def explain(
    folder: FolderArgument,
    line: Annotated[str, typer.Argument(metavar="LINE", help="number of the text in the input file, from 1")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead")] = False,
) -> None:
    """Say why a text is in its cluster: scores, the next best cluster, and the answers that touched it."""
    with _one_line_errors():
        from clusterllm_plugins.explaining import lines_for_people
        from clusterllm_plugins.runs import explain_line

        explanation = explain_line(folder, line)
        if as_json:
            typer.echo(json.dumps(explanation, ensure_ascii=False, indent=2))
        else:
            typer.echo("\n".join(lines_for_people(explanation, f"line {explanation['line']}")))


@app.command(name="plugins", epilog="Example: clusterllm plugins")
def list_plugins() -> None:
    """List the plugins, and the broken ones with the reason."""
    with _one_line_errors():
        from clusterllm_plugins.plugins import Plugins

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ClusterLLMWarning)  # said below, in full
            plugins = Plugins()
        for name in plugins.names:
            typer.echo(name)
        for broken in plugins.broken:
            typer.echo(f"{broken.name}  BROKEN: {broken.error}")


@app.command(epilog="Example: clusterllm oracles")
def oracles() -> None:
    """List the oracles with their settings."""
    _list_components("oracle")


@app.command(epilog="Example: clusterllm embedders")
def embedders() -> None:
    """List the embedders with their settings."""
    _list_components("embedder")


def _list_components(kind: str) -> None:
    with _one_line_errors():
        from clusterllm_plugins.plugins import Plugins, describe_settings

        for name, registration in sorted(Plugins().registrations[kind].items()):
            try:
                factory = registration.load(kind)
                summary = (inspect.getdoc(factory) or "").partition("\n")[0].replace("``", "`")
                described = [summary, describe_settings(factory)]
            except ClusterLLMError as error:
                described = [f"BROKEN: {_in_one_line(error)}"]
            typer.echo(f"{name}  (plugin {registration.plugin})")
            for paragraph in filter(None, described):
                typer.echo(textwrap.fill(paragraph, LISTED_WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 6))


def _settings(config: Path | None, assignments: list[str] | None, **options: Any) -> dict[str, Any]:
    from clusterllm_plugins.config import merge, parse_n_clusters, read_config

    if options.get("n_clusters") is not None:
        options["n_clusters"] = parse_n_clusters(options["n_clusters"])
    return merge({} if config is None else read_config(config), options, assignments or [])


def _emit(lines: Iterator[str], output: Path | None) -> None:
    from clusterllm_plugins.files import write_lines

    if output is not None:
        write_lines(output, lines)
        return
    for line in lines:
        typer.echo(line)


def main() -> None:
    """Run the command line."""
    app()
