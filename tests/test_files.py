"""Reading texts of every format, and writing all or nothing."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from clusterllm_plugins.errors import ClusterLLMError, DataError
from clusterllm_plugins.files import read_texts, replacing, text_pieces, write_lines

KETTLE, BICYCLE = "The kettle whistles", "My bicycle has a flat tyre"


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file and returns its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def message_of(path, **options):
    """Return what the error says when the file is read, without the folder."""
    with pytest.raises(DataError) as caught:
        read_texts(path, **options)
    return str(caught.value).removeprefix(f"{path.parent}{os.sep}")


# --- all formats -----------------------------------------------------------------------------------------------

SAME = {
    "texts.jsonl": f'{{"text": "{KETTLE}"}}\n{{"text": "{BICYCLE}"}}\n',
    "texts.csv": f"text\n{KETTLE}\n{BICYCLE}\n",
    "texts.txt": f"{KETTLE}\n{BICYCLE}\n",
}
each_format = pytest.mark.parametrize(("name", "content"), SAME.items(), ids=SAME)


@each_format
def test_texts_are_read_in_their_order(write, name, content):
    assert read_texts(write(name, content)).texts == [KETTLE, BICYCLE]


@each_format
def test_pieces_hold_the_same_texts(write, monkeypatch, name, content):
    monkeypatch.setattr("clusterllm_plugins.files.PIECE", 1)
    assert list(text_pieces(write(name, content))) == [[KETTLE], [BICYCLE]]


@each_format
def test_the_last_line_needs_no_line_feed(write, name, content):
    assert read_texts(write(name, content.rstrip("\n"))).texts == [KETTLE, BICYCLE]


@each_format
def test_a_byte_order_mark_is_no_part_of_a_text(write, name, content):
    assert read_texts(write(name, "\ufeff" + content)).texts == [KETTLE, BICYCLE]


@each_format
def test_lines_may_end_in_crlf(write, name, content):
    assert read_texts(write(name, content.replace("\n", "\r\n"))).texts == [KETTLE, BICYCLE]


@each_format
@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "é", "包", "👍"])
def test_every_character_of_a_text_is_kept(write, name, content, character):
    texts = read_texts(write(name, content.replace("kettle", f"ket{character}tle"))).texts
    assert texts == [f"The ket{character}tle whistles", BICYCLE]


@each_format
def test_a_file_that_is_not_utf8_is_named_with_its_line(write, name, content):
    path = write(name, content.encode().replace(b"tyre", b"t\xffre"))
    line = 3 if name.endswith("csv") else 2
    assert message_of(path) == f"{name}, line {line}: not UTF-8 (invalid start byte)"


@each_format
def test_an_empty_file_is_an_error(write, name, content):
    assert message_of(write(name, "")) == f"{name}: the file is empty"


@each_format
def test_without_a_label_field_there_are_no_labels(write, name, content):
    assert read_texts(write(name, content)).labels is None


@each_format
def test_an_unknown_field_lists_the_known_ones(write, name, content):
    line = 2 if name.endswith("csv") else 1
    message = message_of(write(name, content), text_field="body")
    assert message == f"{name}, line {line}: no field 'body' (fields: 'text')"


def test_an_unknown_suffix_lists_the_known_ones(write):
    assert message_of(write("texts.doc", KETTLE)) == (
        "texts.doc: unknown kind of file, give one of .jsonl, .csv, .txt, .parquet"
    )


def test_a_suffix_may_be_in_capitals(write):
    assert read_texts(write("TEXTS.TXT", KETTLE)).texts == [KETTLE]


def test_a_missing_file_is_an_error(tmp_path):
    assert message_of(tmp_path / "texts.txt") == "texts.txt: no such file"


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "texts.txt").mkdir()
    assert message_of(tmp_path / "texts.txt") == "texts.txt: no such file"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "texts.txt").symlink_to("/proc/self/mem")  # opens, but its first page is not mapped
    assert message_of(tmp_path / "texts.txt") == "texts.txt: cannot be read (Input/output error)"


# --- JSON Lines ------------------------------------------------------------------------------------------------


def test_jsonl_text_field_is_chosen(write):
    path = write("texts.jsonl", '{"title": "Tea", "body": "A pot of it"}')
    assert read_texts(path, text_field="body").texts == ["A pot of it"]


def test_jsonl_blank_lines_are_skipped(write):
    assert read_texts(write("texts.jsonl", '\n{"text": "Tea"}\n  \n{"text": "Milk"}\n\n')).texts == ["Tea", "Milk"]


def test_jsonl_blank_lines_are_counted(write):
    assert message_of(write("texts.jsonl", '{"text": "Tea"}\n\nMilk\n')).startswith("texts.jsonl, line 3: ")


def test_jsonl_empty_text_is_a_text(write):
    assert read_texts(write("texts.jsonl", '{"text": "Tea"}\n{"text": ""}')).texts == ["Tea", ""]


def test_jsonl_line_breaks_of_a_text_are_kept(write):
    assert read_texts(write("texts.jsonl", r'{"text": "Tea\r\nwith milk\n"}')).texts == ["Tea\r\nwith milk\n"]


def test_jsonl_file_of_blank_lines_is_empty(write):
    assert message_of(write("texts.jsonl", "\n \n")) == "texts.jsonl: the file is empty"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "Tea"', "not JSON (Expecting ',' delimiter)"),
        ("Tea", "not JSON (Expecting value)"),
        ('["Tea"]', "a line must be a JSON object"),
        ('"Tea"', "a line must be a JSON object"),
        ('{"body": "Tea"}', "no field 'text' (fields: 'body')"),
        ("{}", "no field 'text' (fields: none)"),
        ('{"text": 5}', "field 'text' is int, not a text"),
        ('{"text": null}', "field 'text' is NoneType, not a text"),
    ],
)
def test_jsonl_bad_line_is_named(write, line, reason):
    assert message_of(write("texts.jsonl", f'{{"text": "Milk"}}\n{line}\n')) == f"texts.jsonl, line 2: {reason}"


@pytest.mark.parametrize("line", ["[" * 100_000, '{"text": "Tea", "n": ' + "1" * 5000 + "}"], ids=["deep", "long"])
def test_jsonl_line_that_is_too_much_for_the_parser_is_named(write, line):
    assert message_of(write("texts.jsonl", line)).startswith("texts.jsonl, line 1: not JSON (")


def test_jsonl_half_of_an_emoji_is_named(write):
    # It is valid JSON, but no text: it can be neither written nor sent.
    assert message_of(write("texts.jsonl", r'{"text": "Tea \ud83d"}')).startswith("texts.jsonl, line 1: ")


@pytest.mark.parametrize(("label", "read"), [('"hot"', "hot"), ("3", "3"), ("true", "True")])
def test_jsonl_labels_are_read_as_text(write, label, read):
    path = write("texts.jsonl", f'{{"text": "Tea", "label": {label}}}')
    assert read_texts(path, label_field="label").labels == [read]


def test_jsonl_missing_label_is_named(write):
    path = write("texts.jsonl", '{"text": "Tea", "label": "hot"}\n{"text": "Milk"}')
    assert message_of(path, label_field="label") == "texts.jsonl, line 2: no field 'label' (fields: 'text')"


# --- CSV -------------------------------------------------------------------------------------------------------


def test_csv_text_column_is_chosen(write):
    path = write("texts.csv", "title,body\nTea,A pot of it\n")
    assert read_texts(path, text_field="body").texts == ["A pot of it"]


def test_csv_quoted_line_break_is_part_of_the_text(write):
    path = write("texts.csv", 'id,text\n1,"Tea\nwith milk"\n2,Coffee\n')
    assert read_texts(path).texts == ["Tea\nwith milk", "Coffee"]


def test_csv_quoted_line_break_after_crlf_is_part_of_the_text(write):
    path = write("texts.csv", 'id,text\r\n1,"Tea\r\nwith milk"\r\n2,Coffee\r\n')
    assert [text.replace("\r\n", "\n") for text in read_texts(path).texts] == ["Tea\nwith milk", "Coffee"]


def test_csv_quoted_comma_and_quotation_mark(write):
    assert read_texts(write("texts.csv", 'text\n"Tea, ""strong"""\n')).texts == ['Tea, "strong"']


def test_csv_labels_are_read(write):
    path = write("texts.csv", "text,label\nTea,hot\nMilk,cold\n")
    assert read_texts(path, label_field="label").labels == ["hot", "cold"]


def test_csv_line_number_counts_quoted_line_breaks(write):
    path = write("texts.csv", 'id,text\n1,"Tea\nwith milk"\n2\n')
    assert message_of(path) == "texts.csv, line 4: has not as many columns as the header"


@pytest.mark.parametrize("line", ["2", "2,Milk,cold"], ids=["too few", "too many"])
def test_csv_wrong_number_of_columns_is_named(write, line):
    path = write("texts.csv", f"id,text\n1,Tea\n{line}\n")
    assert message_of(path) == "texts.csv, line 3: has not as many columns as the header"


def test_csv_quotation_that_never_ends_is_an_error(write):
    assert message_of(write("texts.csv", 'text\n"Tea\n')).endswith(": not CSV (unexpected end of data)")


def test_csv_header_alone_is_empty(write):
    assert message_of(write("texts.csv", "text\n")) == "texts.csv: the file is empty"


def test_csv_text_may_be_long(write):
    text = "tea " * 50_000
    assert read_texts(write("texts.csv", f"text\n{text}\n")).texts == [text]


# --- plain text ------------------------------------------------------------------------------------------------


def test_txt_empty_line_is_an_empty_text(write):
    assert read_texts(write("texts.txt", "Tea\n\nMilk\n")).texts == ["Tea", "", "Milk"]


def test_txt_form_feed_is_no_line_break(write):
    assert read_texts(write("texts.txt", "Tea\x0cMilk\x0bCoffee\n")).texts == ["Tea\x0cMilk\x0bCoffee"]


def test_txt_spaces_are_kept(write):
    assert read_texts(write("texts.txt", "  Tea \n")).texts == ["  Tea "]


# --- Parquet ---------------------------------------------------------------------------------------------------


@pytest.fixture
def parquet(tmp_path):
    """Return a function that writes columns to a Parquet file and returns its path."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    def parquet(**columns):
        write_table(pyarrow.table(columns), tmp_path / "texts.parquet")
        return tmp_path / "texts.parquet"

    return parquet


def test_parquet_texts_are_read_in_their_order(parquet):
    assert read_texts(parquet(text=[KETTLE, BICYCLE])).texts == [KETTLE, BICYCLE]


def test_parquet_labels_are_read_as_text(parquet):
    assert read_texts(parquet(text=["Tea", "Milk"], label=[1, 2]), label_field="label").labels == ["1", "2"]


def test_parquet_unknown_column_lists_the_known_ones(parquet):
    message = message_of(parquet(title=["Tea"], body=["A pot of it"]))
    assert message == "texts.parquet, row 1: no field 'text' (fields: 'title', 'body')"


def test_parquet_missing_text_is_named_with_its_row(parquet):
    assert message_of(parquet(text=["Tea", None])) == "texts.parquet, row 2: field 'text' is NoneType, not a text"


def test_parquet_table_without_rows_is_empty(parquet):
    import pyarrow

    path = parquet(text=pyarrow.array([], pyarrow.string()))
    assert message_of(path) == "texts.parquet: the file is empty"


@pytest.mark.parametrize("content", [b"", b"PAR1 is how it should begin and end"], ids=["empty", "damaged"])
def test_parquet_damaged_file_is_an_error(write, content):
    pytest.importorskip("pyarrow")
    message = message_of(write("texts.parquet", content))
    assert message.startswith("texts.parquet: not a Parquet file (")
    assert "\n" not in message


def test_parquet_without_the_extra_says_what_to_install(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ClusterLLMError, match=r"pip install 'clusterllm-plugins\[parquet\]'"):
        read_texts(write("texts.parquet", b"PAR1"))


# --- writing ---------------------------------------------------------------------------------------------------


def broken_lines():
    yield "new line"
    raise RuntimeError("half-way")


def test_lines_are_written_as_utf8_with_line_feeds(tmp_path):
    write_lines(tmp_path / "out.txt", ["Tea", "Käse"])
    assert (tmp_path / "out.txt").read_bytes() == "Tea\nKäse\n".encode()


def test_an_old_file_is_replaced(write):
    path = write("out.txt", "a much longer old content\n")
    write_lines(path, ["new"])
    assert path.read_text() == "new\n"


def test_a_failure_half_way_leaves_the_old_file(write):
    path = write("out.txt", "old\n")
    with pytest.raises(RuntimeError, match="half-way"):
        write_lines(path, broken_lines())
    assert path.read_text() == "old\n"


def test_a_failure_half_way_leaves_no_new_file(tmp_path):
    with pytest.raises(RuntimeError, match="half-way"):
        write_lines(tmp_path / "out.txt", broken_lines())
    assert list(tmp_path.iterdir()) == []


def test_a_stop_by_the_user_leaves_the_old_file_alone(write, tmp_path):
    def stopped():
        yield "new line"
        raise KeyboardInterrupt

    path = write("out.txt", "old\n")
    with pytest.raises(KeyboardInterrupt):
        write_lines(path, stopped())
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("out.txt", "old\n")]


def test_the_old_file_is_there_until_all_is_written(write):
    path = write("out.txt", "old\n")
    with replacing(path) as file:
        file.write("new\n")
        file.flush()
        assert path.read_text() == "old\n"


def test_a_place_that_cannot_be_written_is_an_error(write):
    path = write("file", "not a folder") / "out.txt"
    with pytest.raises(DataError) as caught:
        write_lines(path, ["new"])
    assert str(caught.value) == f"{path}: cannot be written (Not a directory); give another place"


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot be written \(No such file or directory\); give another place"):
        write_lines(tmp_path / "missing" / "out.txt", ["new"])


def test_a_folder_in_the_place_of_the_file_is_an_error(tmp_path):
    (tmp_path / "out.txt").mkdir()
    with pytest.raises(DataError, match=r"cannot be written \(Is a directory\); give another place"):
        write_lines(tmp_path / "out.txt", ["new"])


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_written_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "other.txt").touch()
    write_lines(tmp_path / "out.txt", ["new"])
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out.txt", "other.txt")]
    assert modes[0] == modes[1]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_into_and_not_replaced(tmp_path):
    # Nor may /dev/stdout and /dev/null be.
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_lines(tmp_path / "pipe", ["new"])
        assert (os.read(reader, 100), (tmp_path / "pipe").is_fifo()) == (b"new\n", True)
    finally:
        os.close(reader)


def test_a_link_stays_a_link(write, tmp_path):
    target = write("target.txt", "old\n")
    (tmp_path / "out.txt").symlink_to(target)
    write_lines(tmp_path / "out.txt", ["new"])
    assert (target.read_text(), (tmp_path / "out.txt").is_symlink()) == ("new\n", True)


def test_what_is_written_is_read_back(tmp_path):
    texts = ["Tea\u2028with milk", "Kä\x85se", '"quoted"', "two\nlines"]
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    write_lines(tmp_path / "out.jsonl", lines)
    assert read_texts(tmp_path / "out.jsonl").texts == texts


# --- pieces ----------------------------------------------------------------------------------------------------


def test_a_piece_ends_where_texts_are_long(write, monkeypatch):
    monkeypatch.setattr("clusterllm_plugins.files.PIECE_CHARACTERS", 10)
    assert list(text_pieces(write("texts.txt", "a\nbbbbbbbbbb\nc\n"))) == [["a", "b" * 10], ["c"]]


def test_a_whole_number_of_pieces_has_no_empty_one_after_it(write, monkeypatch):
    monkeypatch.setattr("clusterllm_plugins.files.PIECE", 2)
    assert list(text_pieces(write("texts.txt", "a\nb\nc\nd\n"))) == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize("name", ["none.jsonl", "none.csv", "none.txt"])
def test_an_empty_file_has_no_pieces_and_says_so(write, name):
    with pytest.raises(DataError, match="the file is empty"):
        next(text_pieces(write(name, "")))


def test_a_parquet_file_is_read_in_pieces_across_its_row_groups(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    monkeypatch.setattr("clusterllm_plugins.files.PIECE", 4)
    monkeypatch.setattr("clusterllm_plugins.files.BATCH", 2)
    texts = [f"text {number}" for number in range(10)]
    table = pyarrow.table({"other": [["not"] * 3] * 10, "text": texts})
    write_table(table, tmp_path / "texts.parquet", row_group_size=3)
    pieces = list(text_pieces(tmp_path / "texts.parquet"))
    assert [len(piece) for piece in pieces] == [4, 4, 2]
    assert [text for piece in pieces for text in piece] == texts


def test_other_columns_of_a_parquet_file_are_not_read(tmp_path, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import ParquetFile, write_table

    write_table(pyarrow.table({"other": [1, 2], "text": ["a", "b"]}), tmp_path / "texts.parquet")
    seen = []
    made = ParquetFile.iter_batches

    def watched(self, size, columns):
        seen.append(columns)
        return made(self, size, columns=columns)

    monkeypatch.setattr(ParquetFile, "iter_batches", watched)
    assert read_texts(tmp_path / "texts.parquet").texts == ["a", "b"]
    assert seen == [["text"]]
