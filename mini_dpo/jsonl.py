"""A JSONL file to rows, one JSON object a line, or an error that names the file, the line and the remedy."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mini_dpo.errors import UserError
from mini_dpo.files import read_bytes

Say = Callable[[str], None]  # prints a line, or keeps it
Row = dict[str, Any]
MOST_NAMES = 12  # columns that a line names


def read_content(path: str | Path) -> bytes:
    """A file's bytes, without those that some editors put first. Raises UserError where it cannot be read."""
    return read_bytes(path).removeprefix(b"\xef\xbb\xbf")


def read_rows(path: str | Path, keys: Sequence[str], say: Say, skip_bad: bool) -> list[tuple[int, Row]]:
    """The line numbers and the values at `keys` of a JSONL file's objects; blank lines are skipped.

    Raises UserError for a file that is not JSONL, for columns that change the meaning, and for faulty lines;
    with skip_bad, faulty lines are left out, and `say` is given a line about them.
    """
    content = read_content(path)
    if form := form_of(content):
        raise UserError(f"{path}: {form}; it needs one JSON object a line, like {example_of(keys)}")
    rows: dict[int, Row] = {}
    faults: dict[int, str] = {}  # by line, as `rows`
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                rows[number] = parse_line(line)
            except UserError as fault:
                faults[number] = str(fault)
    check_columns(path, rows, keys, say)
    for number in list(rows):
        try:
            check_row(rows[number], keys)
        except UserError as fault:
            faults[number] = str(fault)
            del rows[number]
    if faults:
        report_faults(path, dict(sorted(faults.items())), len(rows), keys, skip_bad, say)
    if not rows:
        raise UserError(
            f"{path}: {'no line can be used' if faults else 'the file is empty'}; it needs "
            f"one JSON object a line, with {', '.join(keys)}"
        )
    return [(number, {key: row[key] for key in keys}) for number, row in rows.items()]


# How files begin that are not text of one JSON object a line.
FIRST_BYTES = {
    b"\x1f\x8b": "compressed with gzip; unpack it first (gunzip)",
    b"BZh": "compressed with bzip2; unpack it first (bunzip2)",
    b"\xfd7zXZ": "compressed with xz; unpack it first (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with Zstandard; unpack it first (unzstd)",
    b"PK\x03\x04": "a zip archive, or a table of Excel's; unpack it, or export its rows",
    b"PAR1": "a Parquet file; with pandas, read_parquet(OLD).to_json(NEW, orient='records', lines=True)",
    b"ARROW1": "an Arrow file; with pandas, read_feather(OLD).to_json(NEW, orient='records', lines=True)",
    b"version https://git-lfs": "a Git LFS pointer, which stands for the file; fetch the file "
    "itself (git lfs pull)",
    b"\xff\xfe": "UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8 OLD > NEW)",
    b"\xfe\xff": "UTF-16 text; convert it (iconv -f UTF-16 -t UTF-8 OLD > NEW)",
    b"{\0": "UTF-16 text; convert it (iconv -f UTF-16LE -t UTF-8 OLD > NEW)",
    b"\0{": "UTF-16 text; convert it (iconv -f UTF-16BE -t UTF-8 OLD > NEW)",
    b"<": "a web page (HTML) or XML; download the file itself",
}
TABLE_HEADER = re.compile(rb""",?(['"]?)[A-Za-z_][\w .-]*\1([,;\t](['"]?)[A-Za-z_][\w .-]*\3)+\s*""")
TO_LINES = (
    "python -c 'import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]' < OLD > NEW"
)


def form_of(content: bytes) -> str | None:
    """What a file is if it is not one JSON object a line, and how to make it that; None where its beginning
    looks right.
    """
    for first, form in FIRST_BYTES.items():
        if content.startswith(first):
            return form
    line = content.lstrip().split(b"\n", 1)[0].strip()
    if line.startswith(b"["):
        return f"a JSON array, which is one value and not one a line; write its rows as lines ({TO_LINES})"
    if line == b"{":
        return "JSON laid out over several lines; write each object on a line of its own (jq -c . OLD > NEW)"
    if TABLE_HEADER.fullmatch(line):
        return (
            "a table (CSV or TSV), by its first line; with pandas, "
            "read_csv(OLD).to_json(NEW, orient='records', lines=True)"
        )
    return None


# Columns that an answer depends on: left aside, they would change what is learned without a word.
MEANING = set(
    "system system_prompt history input context instruction messages conversation "
    "conversations tools functions image images audio video documents".split()
)


def says_something(value: object) -> bool:
    """Whether a column's value can change what an answer means: not an empty one, however it is written."""
    return bool(value) and not (isinstance(value, str) and value.strip() in ("", "[]", "{}", "null"))


def check_columns(path: str | Path, rows: dict[int, Row], keys: Sequence[str], say: Say) -> None:
    """Name, once for the file, the columns that nothing reads. Raises UserError where one of them changes the
    meaning: where it is one of MEANING and says something.
    """
    if not any(keys[0] in row for row in rows.values()):
        return  # another form: that its own columns are missing is said first
    # where it stands first
    unread = {name: number for number in reversed(rows) for name in rows[number] if name not in keys}
    says = {
        number: [
            name
            for name, value in rows[number].items()
            if name not in keys and name.lower() in MEANING and says_something(value)
        ]
        for number in rows
    }
    lines = [number for number in rows if says[number]]
    if lines:
        named = dict.fromkeys(name for number in lines for name in says[number])
        raise UserError(
            f"{path}: {', '.join(map(repr, named))} (on {len(lines)} of {len(rows)} lines, "
            f"first: line {lines[0]}) would change what an answer means, and only "
            f"{', '.join(keys)} are read; put that text into the prompt, or take the column "
            "out of the file if no answer depends on it"
        )
    if unread:
        names = sorted(unread, key=unread.__getitem__)
        say(
            f"{path}: not read: "
            f"{', '.join(name[:60] for name in names[:MOST_NAMES])}"
            f"{f' and {len(names) - MOST_NAMES} more' if len(names) > MOST_NAMES else ''}"
        )


def report_faults(
    path: str | Path, faults: dict[int, str], good: int, keys: Sequence[str], skip_bad: bool, say: Say
) -> None:
    """Say what is wrong with which lines: all are counted, the first five shown. Raises UserError unless
    skip_bad.
    """
    shown = list(faults.items())[:5]
    form = f"must be like {example_of(keys)}"
    if not skip_bad and len(faults) == 1:
        ((number, fault),) = shown
        raise UserError(f"{path}, line {number}: {fault}; each line {form}; --skip-bad leaves it out")
    lines = {fault: [number for number, same in shown if same == fault] for _, fault in shown}
    listed = [
        f"  line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: {fault}"
        for fault, numbers in lines.items()
    ]
    if len(faults) > len(shown):
        listed.append(f"  ... and {len(faults) - len(shown)} more, the last on line {max(faults)}")
    counted = f"{len(faults)} of {len(faults) + good} lines"
    if not skip_bad:
        raise UserError(
            "\n".join([f"{path}: {counted} cannot be used; each {form}; --skip-bad leaves them out", *listed])
        )
    say("\n".join([f"{path}: --skip-bad left out {counted}", *listed]))


def example_of(keys: Sequence[str]) -> str:
    """A line as it should be."""
    line = "{" + ", ".join(f'"{key}": ' + ("true" if key == "label" else '"..."') for key in keys) + "}"
    return (
        f"{line}, or, for a pair, {example_of(('prompt', 'chosen', 'rejected'))}" if "label" in keys else line
    )


def each_key_once(pairs: list[tuple[str, Any]]) -> Row:
    """A JSON object. Raises UserError where a key is in it twice: Python would keep the last one alone."""
    row = dict(pairs)
    if len(row) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise UserError(f"the key {twice[:40]!r} stands there twice")
    return row


def parse_line(line: bytes) -> Row:
    """One line to its object, or the UserError that says what is wrong with it."""
    try:
        row = json.loads(line.decode("utf-8"), object_pairs_hook=each_key_once)
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"not JSON that ends on this line ({getattr(error, 'msg', type(error).__name__)})"
        ) from error
    if not isinstance(row, dict):
        raise UserError(f"{json_kind(row)}, not an object")
    return row


def check_row(row: Row, keys: Sequence[str]) -> None:
    """Raise UserError unless the row has all keys, and texts, or a label, at them."""
    for key in keys:
        if key not in row:
            found = ", ".join(repr(name) for name in list(row)[:6]) or "none"
            single = (
                "; single responses are for the losses kto and apo_zero_unpaired"
                if key == "chosen" and "label" in row
                else ""
            )
            raise UserError(f"no {key!r} (keys found: {found}){single}")
        if key != "label":
            check_text(repr(key), row[key], may_be_empty=key == "prompt")
        elif not isinstance(row[key], bool):
            raise UserError(f"'label' must be true or false, not {json.dumps(row[key])[:40]}")


LONGEST_TEXT = 1_000_000  # characters: at least 10,000 tokens, more than a context here holds


def check_text(place: str, text: object, may_be_empty: bool) -> None:
    """Raise UserError unless `text` is a string that can be encoded and, for a response, says something."""
    if not isinstance(text, str):
        whole = "; a conversation must be written out as one text" if isinstance(text, list) else ""
        raise UserError(f"{place} must be a string, not {json_kind(text)}{whole}")
    if not may_be_empty and not text.strip():
        raise UserError(f"{place} is empty; a response needs at least one visible character")
    if len(text) > LONGEST_TEXT:
        raise UserError(
            f"{place} has {len(text):,} characters; more than {LONGEST_TEXT:,} fit no context here"
        )
    if re.search("[\ud800-\udfff]", text):
        raise UserError(
            f"{place} holds half of a surrogate pair (\\ud800 to \\udfff), which is no character; remove it"
        )


def json_kind(value: object) -> str:
    """What JSON calls a value."""
    kinds = {type(None): "null", bool: "true or false", str: "a string", list: "a list", dict: "an object"}
    return kinds.get(type(value), "a number")


def holds_pairs(path: str | Path) -> bool:
    """Whether the first object of a JSONL file looks like a preference pair."""
    for line in read_content(path).split(b"\n"):
        try:
            return bool({"chosen", "rejected"} & parse_line(line).keys())
        except UserError:
            continue
    return True
