"""A file to rows, whatever it is: JSON lines, a JSON array, a table (CSV, TSV), Parquet; each also under
gzip.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mini_dpo.errors import UserError
from mini_dpo.files import read_bytes

Row = dict[str, Any]
LONGEST_TEXT = 1_000_000  # characters: at least 10,000 tokens, more than a context here holds
MOST_UNPACKED = 2**31  # bytes


class Table(NamedTuple):
    """A file's rows, and what is wrong with the others, both by line. Where a line is no row (an array,
    Parquet), the number is the row's. kind: what the file is.
    """

    rows: dict[int, Row]
    faults: dict[int, str]
    kind: str


def read_table(path: str | Path) -> Table:
    """The rows of a file. Raises UserError, with the file's name and what to do, where it holds none."""
    try:
        return read_content(path, unpack(path, read_bytes(path)))
    except MemoryError as error:
        raise UserError(f"{path}: too large for this machine's memory; take a part of it") from error


def read_content(path: str | Path, content: bytes) -> Table:
    """The rows of a file's content."""
    if content.startswith(b"PAR1"):
        return Table(read_parquet(path, content), {}, "Parquet")
    for first, form in FIRST_BYTES.items():
        if content.startswith(first):
            raise UserError(f"{path}: {form}; it needs one JSON object a line, a JSON array, CSV or Parquet")
    content = content.removeprefix(b"\xef\xbb\xbf")  # some editors put it first
    line = content.lstrip().split(b"\n", 1)[0].strip()
    if delimiter := delimiter_of(line, Path(path).suffix in (".csv", ".tsv")):
        return read_csv(path, decode(path, content), delimiter)
    if line.startswith(b"["):
        return Table(dict(enumerate(read_values(path, decode(path, content)), 1)), {}, "a JSON array")
    table = read_lines(content)
    if line.startswith(b"{") and min(table.faults, default=0) == 1 + content[: content.find(b"{")].count(
        b"\n"
    ):
        try:  # an object that is laid out over several lines
            rows = dict(enumerate(read_values(path, decode(path, content)), 1))
            table = Table(rows, {}, "JSON objects")
        except UserError:
            pass  # lines, then, and the first of them is broken
    return unwrapped(path, table)


# --- packed


def unpack(path: str | Path, content: bytes) -> bytes:
    """The content of a file under gzip, or the content as it is. Raises UserError where it is damaged or too
    large.
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: a damaged gzip file ({error}); fetch it again") from error
    if len(unpacked) > MOST_UNPACKED:
        raise UserError(
            f"{path}: unpacks to more than {MOST_UNPACKED:,} bytes; unpack it, and take a part of it"
        )
    return unpacked


GIT_LFS = b"version https://git-lfs"
POINTER = "a Git LFS pointer, which stands for the file; fetch the file itself (git lfs pull)"

# How files begin that hold no rows that can be read here.
FIRST_BYTES = {
    b"BZh": "compressed with bzip2; unpack it first (bunzip2)",
    b"\xfd7zXZ": "compressed with xz; unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard; unpack it first (unzstd)",
    b"PK\x03\x04": "a zip archive, or a table of Excel's; unpack it, or export its rows",
    b"ARROW1": "an Arrow file; with pandas, read_feather(OLD).to_json(NEW, orient='records', lines=True)",
    GIT_LFS: POINTER,
    b"\xff\xfe": "UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8 OLD > NEW)",
    b"\xfe\xff": "UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8 OLD > NEW)",
    b"{\0": "UTF-16 text; convert it (iconv -f UTF-16LE -t UTF-8 OLD > NEW)",
    b"\0{": "UTF-16 text; convert it (iconv -f UTF-16BE -t UTF-8 OLD > NEW)",
    b"<": "a web page (HTML) or XML; download the file itself",
}
# Columns by which the first line of a table is known.
COLUMNS = set(
    "prompt chosen rejected completion response instruction question messages conversations".split()
)


def decode(path: str | Path, content: bytes) -> str:
    """The text of a file. Raises UserError, with the line, where it is not UTF-8."""
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error


def read_parquet(path: str | Path, content: bytes) -> dict[int, Row]:
    """The rows of a Parquet file. Raises UserError without the package that reads it."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"{path}: a Parquet file, which needs another package: pip install pyarrow"
        ) from error
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
        dates = [field.name for field in table.schema if pyarrow.types.is_temporal(field.type)]
        return dict(enumerate(table.drop_columns(dates).to_pylist(), 1))
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path}: not a Parquet file that can be read ({' '.join(str(error).split())[:200]})"
        ) from error


# --- JSON


def read_lines(content: bytes) -> Table:
    """One JSON object a line; blank lines are skipped."""
    rows: dict[int, Row] = {}
    faults: dict[int, str] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                rows[number] = parse_line(line)
            except UserError as fault:
                faults[number] = str(fault)
    return Table(rows, faults, "JSON lines")


def parse_line(line: bytes) -> Row:
    """One line to its object, or the UserError that says what is wrong with it."""
    try:
        row = json.loads(line.decode(), object_pairs_hook=each_key_once)
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"not JSON that ends on this line ({getattr(error, 'msg', type(error).__name__)})"
        ) from error
    if not isinstance(row, dict):
        raise UserError(f"{json_kind(row)}, not an object")
    return row


def read_values(path: str | Path, text: str) -> Iterator[Row]:
    """The objects of a JSON array, or objects that take several lines each. Raises UserError, with the line,
    at the first that is none: what is after it cannot be found.
    """
    decoder, at, gap = json.JSONDecoder(object_pairs_hook=each_key_once), 0, re.compile(r"[\s,]*")
    array = text.lstrip().startswith("[")
    if array:
        at = text.index("[") + 1
    while (at := gap.match(text, at).end()) < len(text):  # type: ignore[union-attr]  # (it always matches)
        if array and text[at] == "]":
            if text[at + 1 :].strip():
                line = text.count("\n", 0, at) + 1
                raise UserError(f"{path}, line {line}: the JSON array ends there, and more follows")
            return
        line = text.count("\n", 0, at) + 1
        try:
            row, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError, UserError) as error:
            raise UserError(
                f"{path}, line {line}: not JSON ({str(getattr(error, 'msg', error))[:200]}) "
                "in the object that begins there"
            ) from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {line}: {json_kind(row)}, not an object")
        yield row
    if array:
        raise UserError(f"{path}: the JSON array has no end; the file was cut off")


def unwrapped(path: str | Path, table: Table) -> Table:
    """The table, or the one that is wrapped in its only object: {"version": 1, "data": [{...}, ...]}.
    Raises UserError where the only object is a table column by column.
    """
    if len(table.rows) != 1 or table.faults:
        return table
    (row,) = table.rows.values()
    if any(isinstance(row.get(name), dict) and "0" in row[name] for name in COLUMNS):
        raise UserError(
            f"{path}: a table column by column; with pandas, read_json(OLD).to_json(NEW, orient='records')"
        )
    lists = [name for name, value in row.items() if isinstance(value, list) and value]
    if len(lists) == 1 and not COLUMNS & row.keys() and all(isinstance(one, dict) for one in row[lists[0]]):
        return Table(dict(enumerate(row[lists[0]], 1)), {}, f"a JSON array ({lists[0]!r} of an object)")
    return table


def each_key_once(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object. Raises UserError where a key is in it twice: Python would keep the last one alone."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise UserError(f"the key {twice[:40]!r} stands there twice")
    return row


def json_kind(value: object) -> str:
    """What JSON calls a value."""
    kinds = {type(None): "null", bool: "true or false", str: "a string", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def says_something(value: object) -> bool:
    """Whether a column's value can change what an answer means: not an empty one, however it is written."""
    return bool(value) and not (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))


# --- tables


def delimiter_of(line: bytes, named_so: bool) -> str | None:
    """What separates the names in the first line of a table; None if it is no such line.
    named_so: whether the file's name says that it is a table.
    """
    text = line.decode("utf-8", "replace")
    if text.startswith(("{", "[")):
        return None
    for delimiter in ",;\t|":
        if delimiter in text and COLUMNS & {name.strip(" '\"") for name in text.split(delimiter)}:
            return delimiter
    return "," if named_so else None


def read_csv(path: str | Path, text: str, delimiter: str) -> Table:
    """The rows of a table with a header. A cell is a text, but for true and false below "label". Columns
    without a name are left out. Raises UserError where two columns have the same name.
    """
    csv.field_size_limit(2**31 - 1)
    rows: dict[int, Row] = {}
    faults: dict[int, str] = {}
    quote = "'" if text.lstrip().startswith("'") else '"'
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quotechar=quote,
        skipinitialspace=True,
        strict=True,
    )
    names: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
            if cells is None:
                return Table(rows, faults, "a table")
            if not any(cells):
                continue
            if not names:
                names = [name.strip() for name in cells]
                if len(set(filter(None, names))) < len(list(filter(None, names))):
                    raise UserError(f"{path}: two columns have the same name; rename one")
                continue
        except csv.Error as error:
            raise UserError(f"{path}, line {number}: not a row of a table ({error})") from error
        if len(cells) == len(names):
            rows[number] = {
                name: read_cell(name, cell) for name, cell in zip(names, cells, strict=True) if name
            }
        else:
            faults[number] = f"{len(cells)} cells, and the header has {len(names)}"


LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def read_cell(name: str, cell: str) -> Any:
    """A cell of a table as a value."""
    return LABELS.get(cell.strip().lower(), cell) if name == "label" else cell
