"""Texts in, results out: JSON Lines, CSV, plain text and Parquet files."""

from __future__ import annotations

import csv
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from clusterllm_plugins.errors import DataError, MissingExtraError

_FIELD = re.compile(r"(?!.*\d{4})[^\W\d][\w .-]{0,39}")  # the name of a column, but no number or address
LONGEST_FIELD = 2**31 - 1  # characters of a CSV field
PIECE = 32_768  # texts read at once, where a file is read in pieces
PIECE_CHARACTERS = 2**26  # likewise, of long texts
BATCH = 4096  # rows of a Parquet file taken at once
SUFFIXES = (".jsonl", ".csv", ".txt", ".parquet")


@dataclass(frozen=True)
class TextFile:
    """Texts of a file, and their labels where a label field was asked for (for evaluation only)."""

    texts: list[str]
    labels: list[str] | None


def read_texts(path: Path, text_field: str = "text", label_field: str | None = None) -> TextFile:
    """Read the texts of a file.

    Args:
        path: A .jsonl, .csv, .txt (a text a line) or .parquet file.
        text_field: The field or column that holds the text.
        label_field: The field or column that holds a known category.

    Raises:
        DataError: If the file is missing, empty, not UTF-8, or a line is not what the format says; the message
            has its number.
    """
    texts: list[str] = []
    labels: list[str] = []
    for where, record in _read(path, (text_field,) if label_field is None else (text_field, label_field)):
        texts.append(_field(record, text_field, where, must_be_text=True))
        if label_field is not None:
            labels.append(_field(record, label_field, where, must_be_text=False))
    if not texts:
        raise DataError(f"{path}: the file is empty")
    return TextFile(texts, None if label_field is None else labels)


def text_pieces(path: Path, text_field: str = "text") -> Iterator[list[str]]:
    """Yield the texts of a file in their order, a piece at a time, so that files of any size can be read.

    Args:
        path: As for :func:`read_texts`.
        text_field: The field or column that holds the text.

    Raises:
        DataError: As :func:`read_texts`, but only when the line is reached.
    """
    texts: list[str] = []
    characters = n_pieces = 0
    for where, record in _read(path, (text_field,)):
        texts.append(_field(record, text_field, where, must_be_text=True))
        characters += len(texts[-1])
        if len(texts) >= PIECE or characters >= PIECE_CHARACTERS:
            yield texts
            texts, characters, n_pieces = [], 0, n_pieces + 1
    if texts:
        yield texts
    elif not n_pieces:
        raise DataError(f"{path}: the file is empty")


def _read(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the records of a file, each with where it stands; of a Parquet file these columns, where it has them."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: unknown kind of file, give one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if suffix == ".parquet":
        return _read_parquet(path, columns)
    return {".jsonl": read_jsonl, ".csv": _read_csv, ".txt": _read_txt}[suffix](path)


def is_unicode(text: str) -> bool:
    """Return whether a text can be written as UTF-8: a lone surrogate, valid in JSON, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _field(record: dict[str, Any], name: str, where: str, *, must_be_text: bool) -> str:
    if name not in record:
        raise DataError(f"{where}: no field {name!r} (fields: {_fields(record)})")
    value = record[name]
    if must_be_text and not isinstance(value, str):
        raise DataError(f"{where}: field {name!r} is {type(value).__name__}, not a text")
    text = str(value)
    if not is_unicode(text):
        raise DataError(f"{where}: field {name!r} holds half of a surrogate pair, which is no character")
    return text


def _fields(record: dict[str, Any]) -> str:
    """Return the names of fields, without what rather is a text: of a CSV file without a header, the first line is."""
    names = [repr(name) for name in record if _FIELD.fullmatch(name)]
    if others := len(record) - len(names):
        names.append(f"{others} of which the name may be a text")
    return ", ".join(names) or "none"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file with their numbers, split at line feeds only."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(f"{path}, line {number}: not UTF-8 ({error.reason})") from error
                yield number, text.rstrip("\r\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def read_jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSON Lines file, each with where it stands: the file and the number of its line.

    Raises:
        DataError: If the file cannot be read or a line is not a JSON object.
    """
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # also of absurdly long numbers and deep nesting
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise DataError(f"{where}: not JSON ({reason})") from error
        if not isinstance(record, dict):
            raise DataError(f"{where}: a line must be a JSON object")
        yield where, record


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader((line + "\n" for _, line in _lines(path)), strict=True)
    limit = csv.field_size_limit(LONGEST_FIELD)  # the default is 131,072 characters, for all of the process
    try:
        for record in reader:
            where = f"{path}, line {reader.line_num}"
            if None in record or None in record.values():
                raise DataError(f"{where}: has not as many columns as the header")
            yield where, record
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    finally:
        csv.field_size_limit(limit)


def _read_txt(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in _lines(path):
        yield f"{path}, line {number}", {"text": line}


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading Parquet", "parquet") from error
    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a Parquet file ({str(error).partition(chr(10))[0]})") from error
    number = 0
    # Where one is missing all are read: the message names them.
    has_all = set(columns) <= set(table.schema_arrow.names)
    for batch in table.iter_batches(BATCH, columns=list(dict.fromkeys(columns)) if has_all else None):
        for record in batch.to_pylist():
            number += 1
            yield f"{path}, row {number}", record


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Open a file for writing that takes the place of ``path`` only when all is written.

    Raises:
        DataError: If it cannot be written.
    """
    target = path.resolve()  # a link stays a link
    if path.exists() and not path.is_file() and not path.is_dir():
        with path.open("w", encoding="utf-8") as file:  # a pipe or a terminal is written into
            yield file
        return
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror}); give another place") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
        try:
            os.chmod(name, 0o666 & ~_umask())  # a temporary file is its maker's alone
            os.replace(name, target)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({error.strerror}); give another place") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines to ``path``, all or none."""
    with replacing(path) as file:
        file.writelines(f"{line}\n" for line in lines)
