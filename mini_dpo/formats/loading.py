"""A file to checked examples, or an error that names the file, the line and the remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path

from mini_dpo.data import Demonstration, Feedback, Preference
from mini_dpo.errors import UserError
from mini_dpo.formats import pairs, singles  # noqa: F401 (they fill FORMS)
from mini_dpo.formats.files import Row, read_table, says_something
from mini_dpo.formats.forms import FORMS, Asked, Form

Say = Callable[[str], None]  # prints a line, or keeps it
MOST_NAMES = 12  # columns that a line names
FIRST_ROWS = 1000  # by which the form of a file is recognised
FORMATS = tuple(dict.fromkeys(form.name for form in FORMS))  # the choices of --format
CALLED: dict[type, str] = {
    Preference: "pair{}",
    Feedback: "single response{}",
    Demonstration: "response{} to imitate",
    Asked: "prompt{}",
}


def load_preferences(
    path: str | Path, say: Say = print, skip_bad: bool = False, form: str | None = None
) -> list[Preference]:
    """Read a preference file. Pairs of two identical responses teach nothing: they are left out, and `say` is
    given a line about them. skip_bad: leave out what cannot be used, also with a line. form: the name of the
    form of its rows, in place of the one that is recognised.

    Raises UserError, with file and line, for anything that has none of the forms of `pairs`.
    """
    found = load(path, Preference, say, skip_bad, form)
    kept = [pair for pair in found if pair.chosen != pair.rejected]
    if len(kept) < len(found):
        first = next(pair.line for pair in found if pair.chosen == pair.rejected)
        say(
            f"{path}: left out {len(found) - len(kept)} of {len(found)} pairs: chosen and "
            f"rejected are the same (first: line {first})"
        )
    if not kept:
        raise UserError(f"{path}: no pair is left to train on; chosen and rejected must differ")
    return kept


def load_demonstrations(
    path: str | Path, say: Say = print, skip_bad: bool = False, form: str | None = None
) -> list[Demonstration]:
    """Read an SFT file. Raises UserError as `load_preferences` does."""
    return load(path, Demonstration, say, skip_bad, form)


def load_feedback(
    path: str | Path, say: Say = print, skip_bad: bool = False, form: str | None = None
) -> list[Feedback]:
    """Read a file of single responses. Raises UserError as `load_preferences` does."""
    return load(path, Feedback, say, skip_bad, form)


def load_prompts(path: str | Path) -> list[Asked]:
    """Read a file of prompts, in any of the forms. Raises UserError as `load_preferences` does."""
    return load(path, Asked, lambda line: None, False, None)


def load(path: str | Path, kind: type, say: Say, skip_bad: bool, name: str | None) -> list:
    """A file's examples of one kind, in order."""
    table = read_table(path)
    form = recognise(table.rows.values(), kind, name)
    check_columns(path, table.rows, form, say)
    found: list = []
    faults, empty = dict(table.faults), 0
    for number, row in table.rows.items():
        try:
            check_needs(row, form)
            examples = [kind(**of_row, line=number) for of_row in form.read(row)]
            found += examples
            empty += not examples
        except UserError as fault:
            faults[number] = str(fault)
    if faults:
        report_faults(
            path, dict(sorted(faults.items())), len(table.rows) + len(table.faults), form, skip_bad, say
        )
    if not found:
        raise UserError(
            f"{path}: {'no line can be used' if faults or table.rows else 'the file is empty'}; it needs "
            f"one JSON object a line, like {example_of(kind)}"
        )
    if empty:
        say(f"{path}: {empty} rows give no pair, because all scores are the same")
    counted = (
        ""
        if table.kind in ("JSON lines", "a table")
        else f" ({table.kind}: the number of a line is the row's)"
    )
    what = CALLED[kind].format("s" * (len(found) > 1))
    say(f"{path}: {len(found):,} {what}, read as {form.about}{counted}")
    return found


def recognise(rows: Iterable[Row], kind: type, name: str | None = None) -> Form:
    """The form of a file's rows: the one that most of the first rows fit (a row has the first that it fits),
    or the one of that name. Raises UserError where there is none of that name.
    """
    forms = [form for form in FORMS if form.kind is kind]
    if name:
        forms = [form for form in forms if form.name == name]
        if not forms:
            others = ", ".join(dict.fromkeys(form.name for form in FORMS if form.kind is kind))
            raise UserError(
                f"--format {name} is not a form of {CALLED[kind].format('s')}; these are {others}"
            )
    fitting = (next((form for form in forms if form.fits(row)), None) for row in islice(rows, FIRST_ROWS))
    if counts := Counter(form for form in fitting if form):
        return counts.most_common(1)[0][0]
    return next((form for form in forms if form.name == "texts"), forms[-1])


def holds_pairs(path: str | Path) -> bool:
    """Whether the first row of a file that has a form looks like a preference pair (also if none has)."""
    rows = read_table(path).rows.values()
    first = next((form for row in rows for form in FORMS if form.kind is not Asked and form.fits(row)), None)
    if first is None:
        return not any("completion" in row and not {"chosen", "rejected"} & row.keys() for row in rows)
    return first.kind is Preference


# --- columns


# Columns that an answer depends on: left aside, they would change what is learned without a word.
MEANING = set(
    "prompt system system_prompt system_message history chat_history input context instruction messages "
    "conversation conversations tools functions images image audio video documents persona".split()
)


def check_columns(path: str | Path, rows: dict[int, Row], form: Form, say: Say) -> None:
    """Name, once for the file, the columns that nothing reads. Raises UserError where one of them changes the
    meaning: where it is one of MEANING and says something.
    """
    reads = dict.fromkeys((*form.needs, *form.also))
    if not any(form.fits(row) for row in rows.values()):
        return  # another form: that its own columns are missing is said first
    # where it stands first
    unread = {name: number for number in reversed(rows) for name in rows[number] if name not in reads}
    meant = {name for name in unread if name.lower() in MEANING}
    says = {
        number: [name for name in row if name in meant and says_something(row[name])]
        for number, row in (rows.items() if meant else ())
    }
    lines = [number for number in says if says[number]]
    if lines:
        named = dict.fromkeys(name for number in lines for name in says[number])
        there = [name for name in reads if any(name in row for row in rows.values())]
        raise UserError(
            f"{path}: {', '.join(map(repr, named))} (on {len(lines)} of {len(rows)} lines, "
            f"first: line {lines[0]}) would change what an answer means, and only "
            f"{', '.join(there)} are read; put that text into the prompt, or take the column "
            "out of the file if no answer depends on it"
        )
    if unread:
        names = sorted(unread, key=unread.__getitem__)
        say(
            f"{path}: not read: "
            f"{', '.join(' '.join(name.split())[:60] for name in names[:MOST_NAMES])}"
            f"{f' and {len(names) - MOST_NAMES} more' if len(names) > MOST_NAMES else ''}"
        )


def check_needs(row: Row, form: Form) -> None:
    """Raise UserError unless the row has all columns that its form needs."""
    for name in form.needs:
        if name not in row:
            found = ", ".join(repr(there) for there in list(row)[:6]) or "none"
            other = ""
            if form.kind is Preference and "label" in row:
                other = "; single responses are for the losses kto and apo_zero_unpaired"
            elif form.kind is not Demonstration and any(
                f.fits(row) for f in FORMS if f.kind is Demonstration and f.needs != ("prompt", "completion")
            ):
                other = "; responses to imitate are for --sft-data"
            elif form.kind is Demonstration and any(f.fits(row) for f in FORMS if f.kind is Preference):
                other = "; without --sft-data, SFT imitates the chosen responses of pairs"
            raise UserError(f"no {name!r} (keys found: {found}){other}")
    if form.kind is Demonstration and isinstance(row.get("label"), bool):
        raise UserError("a 'label': responses that are liked or not are for --data, with --loss kto")
    if not form.only(row):
        raise UserError(f"not {form.about}, which other lines have")


# --- faults


def report_faults(
    path: str | Path, faults: dict[int, str], lines: int, form: Form, skip_bad: bool, say: Say
) -> None:
    """Say what is wrong with which lines: all are counted, the first five shown. Raises UserError unless
    skip_bad.
    """
    shown = list(faults.items())[:5]
    like = f"must be like {example_of(form.kind)}" if form.name == "texts" else f"must have {form.about}"
    advice = "" if len(faults) == lines else "; --skip-bad leaves "
    if not skip_bad and len(faults) == 1:
        ((number, fault),) = shown
        raise UserError(f"{path}, line {number}: {fault}; each line {like}{advice and advice + 'it out'}")
    same = {fault: [number for number, one in shown if one == fault] for _, fault in shown}
    listed = [
        f"  line{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}: {fault}"
        for fault, numbers in same.items()
    ]
    if len(faults) > len(shown):
        listed.append(f"  ... and {len(faults) - len(shown)} more, the last on line {max(faults)}")
    counted = f"{len(faults)} of {lines} lines"
    if not skip_bad:
        raise UserError(
            "\n".join(
                [f"{path}: {counted} cannot be used; each {like}{advice and advice + 'them out'}", *listed]
            )
        )
    say("\n".join([f"{path}: --skip-bad left out {counted}", *listed]))


def example_of(kind: type) -> str:
    """A line of the plainest form of a kind."""
    names: Sequence[str] = [field.name for field in fields(kind) if field.name != "line"]
    line = "{" + ", ".join(f'"{name}": ' + ("true" if name == "label" else '"..."') for name in names) + "}"
    return f"{line}, or, for a pair, {example_of(Preference)}" if kind is Feedback else line
