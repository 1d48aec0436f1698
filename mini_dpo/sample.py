"""Talk to a run: the SFT model and the preference-trained one answer the same prompt.

python -m mini_dpo.sample runs/1
python -m mini_dpo.sample runs/1 --prompt "Ada here. On Friday you sold me a kettle, and now it bites."
python -m mini_dpo.sample runs/1 --prompts mine.txt -n 4 --out answers.jsonl
"""

from __future__ import annotations

import json
import random
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, TextIO

from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.data import Prompt, Turn, as_text, turns
from mini_dpo.errors import UserError
from mini_dpo.evaluation.table import heading
from mini_dpo.files import read_bytes
from mini_dpo.formats.conversations import as_json, check_text
from mini_dpo.formats.files import decode
from mini_dpo.formats.loading import load_prompts
from mini_dpo.generate import check_room, check_settings, generate
from mini_dpo.model import GPT
from mini_dpo.saving.checkpoint import build_model, find_model, load_model, load_own
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.train.parsing import read_config
from mini_dpo.worlds.finding import WORLDS
from mini_dpo.worlds.world import reward

ROWS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz")  # how names of files end that hold rows
BATCH = 32  # answers that a model writes at a time


@dataclass(frozen=True)
class SampleSettings:
    """What to answer, and how."""

    prompt: str | None = option(
        str,
        "answer this and stop; without it and --prompts, a conversation with each model, a line from the "
        "keyboard at a time, until exit, an empty line or Ctrl-D (the models of a world know single prompts: "
        "with them, every line begins anew)",
    )
    system: str | None = option(str, "a system message, before the first prompt")
    prompts: str | None = option(
        str,
        'answer the prompts of this file and stop: one a line, or one {"prompt": ...} a line, with a text or '
        "a list of messages",
        metavar="PATH",
    )
    n: int = option(int, "answers of each model to a prompt", 1)
    json: bool = option(
        bool,
        "print one JSON object an answer: prompt, model, response, finished, tokens, seed, "
        "and the judge's marks if it knows the prompt",
        False,
    )
    out: str | None = option(
        str,
        "write such objects to this file, which must not exist yet, and nothing to the screen",
        metavar="PATH",
    )
    temperature: float = option(
        float, "1 draws from the model as it is, lower is bolder, 0 takes the likeliest token", 1.0
    )
    top_k: int | None = option(int, "draw only from the so many likeliest tokens")
    top_p: float | None = option(float, "draw only from the fewest tokens that hold this much probability")
    max_new_tokens: int = option(int, "longest answer, in tokens", 200)
    seed: int = option(
        int,
        "of the first answer; the next is drawn with the next seed, and so on: --prompt and "
        "that seed give it again",
        0,
    )


def main() -> None:
    parser = parser_for(
        SampleSettings, "sample", "Talk to a run: SFT and DPO answer the same prompt.", arguments="RUN "
    )
    parser.add_argument(
        "run", metavar="RUN", help="a run's folder, a checkpoint file, or a GPT-2 from Hugging Face"
    )
    given = vars(parser.parse_args())
    run = Path(given.pop("run"))
    settings = SampleSettings(**given)
    check(settings)
    models = load_models(run)
    if settings.prompt is None and settings.prompts is None:
        converse(models, settings, world=world_of(run))
    else:
        answer_all(models, settings)


def check(settings: SampleSettings) -> None:
    """Raise UserError for a setting out of range."""
    try:
        check_settings(settings.temperature, settings.top_k, settings.top_p)
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-')}") from error
    if settings.n < 1:
        raise UserError(f"-n must be at least 1, not {settings.n}")
    if settings.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens must be at least 1, not {settings.max_new_tokens}")
    if not 0 <= settings.seed < 2**31:
        raise UserError(f"--seed must be in [0, 2^31), not {settings.seed}")
    if settings.prompt is not None and settings.prompts is not None:
        raise UserError("give --prompt or --prompts, not both")
    if settings.out and settings.prompt is None and settings.prompts is None:
        raise UserError("--out needs --prompt or --prompts; a conversation goes to the screen")


def load_models(run: Path) -> dict[str, tuple[GPT, Tokenizer]]:
    """The models of a run by name: SFT, and the name of the loss if preference training has begun. A
    checkpoint file is one model. Raises UserError if a file is missing, damaged, or from another run.
    """
    paths = {"SFT": run / "sft.pt"}
    if (run / "dpo.pt").exists():
        if not (run / "sft.pt").exists():
            raise UserError(
                f"{run}: dpo.pt is there and sft.pt is missing; put sft.pt back, or name the one model: "
                f"{run / 'dpo.pt'}"
            )
        settings, _ = read_config(run)
        paths = {settings.start: run / "sft.pt", heading(settings.loss): run / "dpo.pt"}
        return {
            name: build_model(path, load_own(path, settings.id), dropout=0.0) for name, path in paths.items()
        }
    if not (run / "sft.pt").exists():
        file = find_model(run)
        paths = {file.stem.upper(): file}
    return {name: load_model(path, dropout=0.0) for name, path in paths.items()}


def world_of(run: Path) -> str | None:
    """The name of the world that the models of a run were trained in, where nobody answers an answer."""
    is_run = (run / "config.json").exists() and (run / "sft.pt").exists()
    return read_config(run)[0].world if is_run else None


# --- prompts


def converse(models: dict[str, tuple[GPT, Tokenizer]], settings: SampleSettings, world: str | None) -> None:
    """Answer each prompt as it is typed. Each model has a conversation of its own, with its own answers.
    world: of the models; every prompt begins a new conversation there.
    """
    before: dict[str, tuple[Turn, ...]] = {}  # what was said to and by each model
    for i, text in enumerate(typed_prompts(world)):
        if text == "new" or world:
            before.clear()
        if text == "new":
            continue
        prompts = {name: conversation(settings.system, before.get(name, ()), text) for name in models}
        try:
            for name, model in models.items():
                check_prompt("the prompt", prompts[name], {name: model})
        except UserError as error:
            print(f"error: {error}{'; new begins a new conversation' if before else ''}", file=sys.stderr)
            continue  # the next prompt may be right
        for name, model in models.items():
            rows = reply({name: model}, [prompts[name]], settings, i)[0]
            for row in rows:
                print(reply_as_text(row, settings.json), flush=True)
            before[name] = (*before.get(name, ()), Turn("user", text), Turn("assistant", rows[0]["response"]))


def conversation(system: str | None, before: Sequence[Turn], text: str) -> Prompt:
    """What the user says now, after what was said before, below a system message."""
    first = (Turn("system", system),) if system else ()
    return (*first, *before, Turn("user", text)) if first or before else text


def typed_prompts(world: str | None) -> Iterator[str]:
    """Prompts from the keyboard (or a pipe), one a line."""
    keyboard = sys.stdin.isatty()
    if keyboard:
        with suppress(ImportError):
            import readline  # noqa: F401 (gives `input` its arrow keys and history)
        print(
            f"A prompt per line; exit or an empty line ends.{example_of(world)}"
            if world
            else "A conversation, a line at a time; new begins another one, exit or an empty line ends."
        )
    while True:
        try:
            prompt = input("you >  " if keyboard else "").removesuffix("\r")
        except EOFError:
            return
        if not prompt or (keyboard and prompt.strip() in ("exit", "quit")):
            return
        yield prompt


def example_of(world: str) -> str:
    """A prompt that a world expects. Worlds in files are not run here."""
    if world not in WORLDS:
        return ""
    return f' {world} expects, for example:\n  "{WORLDS[world].write_prompt(random.Random(0))}"'


def answer_all(models: dict[str, tuple[GPT, Tokenizer]], settings: SampleSettings) -> None:
    """Answer --prompt, or a whole file of --prompts, many at a time. First all prompts are checked."""
    given: list[tuple[str, Prompt]] = [
        ("the prompt", conversation(settings.system, (), settings.prompt or ""))
    ]
    if settings.prompts:
        given = read_prompts(settings.prompts, settings.system)
    for place, prompt in given:
        check_prompt(place, prompt, models)
    prompts = [prompt for _, prompt in given]
    size = max(1, BATCH // settings.n)
    as_lines = settings.json or settings.out is not None
    with open_out(settings.out) as file:
        for i in range(0, len(prompts), size):
            for prompt, rows in zip(
                prompts[i:], reply(models, prompts[i : i + size], settings, i), strict=False
            ):
                if settings.prompts and not as_lines:
                    print(f"\n> {as_text(prompt)}")
                for row in rows:
                    print(reply_as_text(row, as_lines), file=file, flush=True)
    if settings.out:
        print(f"{settings.out}: {len(prompts) * len(models) * settings.n} answers to {len(prompts)} prompts")


def read_prompts(path: str, system: str | None) -> list[tuple[str, Prompt]]:
    """The prompts of a file, each with its place for messages: those of its rows, in any form, where its name
    or its first character says that it has rows; else a prompt is a line. Blank lines are skipped.
    system: a system message for prompts without one. Raises UserError, with file and line, for what cannot be
    read.
    """
    prompts: list[tuple[str, Prompt]]
    content = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    if Path(path).suffix in ROWS or content.lstrip()[:1] in (b"{", b"["):
        prompts = [(f"{path}, line {e.line}: the prompt", e.prompt) for e in load_prompts(path)]
        first = (Turn("system", system),) if system else ()
        return [
            (place, p if turns(p)[0].role == "system" or not first else (*first, *turns(p)))
            for place, p in prompts
        ]
    lines = enumerate(decode(path, content).split("\n"), 1)
    prompts = [
        (f"{path}, line {i}: the prompt", conversation(system, (), line.removesuffix("\r")))
        for i, line in lines
        if line.strip()
    ]
    if not prompts:
        raise UserError(f"{path}: the file is empty; it needs one prompt per line")
    return prompts


def check_prompt(place: str, prompt: Prompt, models: dict[str, tuple[GPT, Tokenizer]]) -> None:
    """Raise UserError for a prompt that a model cannot read, or that leaves no room for an answer."""
    check_text(place, as_text(prompt), may_be_empty=True)
    for model, tokenizer in models.values():
        check_room(model, tokenizer.encode_prompt(prompt), place)


def open_out(path: str | None) -> AbstractContextManager[TextIO]:
    """The new file to write to, or the screen. Raises UserError if the file exists or cannot be made."""
    try:
        return open(path, "x", encoding="utf-8") if path else nullcontext(sys.stdout)
    except OSError as error:
        raise UserError(
            f"--out {path}: cannot be made ({error.strerror}); name a new file in a folder that exists"
        ) from error


# --- answers


def reply(
    models: dict[str, tuple[GPT, Tokenizer]], prompts: Sequence[Prompt], settings: SampleSettings, first: int
) -> list[list[dict]]:
    """For each prompt the answers of every model, as --json shows them. first: how many prompts were answered
    before.

    Each answer has its own seed. So prompts that are answered together get the same answers as one by one,
    except for a rare token that depends on rounding.
    """
    asked = [prompt for prompt in prompts for _ in range(settings.n)]
    seeds = [settings.seed + first * settings.n + k for k in range(len(asked))]
    rows: list[list[dict]] = [[] for _ in prompts]
    for name, (model, tokenizer) in models.items():
        answers = generate(
            model,
            [tokenizer.encode_prompt(prompt) for prompt in asked],
            end_of_text=tokenizer.end_of_text,
            max_new_tokens=settings.max_new_tokens,
            temperature=settings.temperature,
            top_k=settings.top_k,
            top_p=settings.top_p,
            seed=seeds,
            batch_size=BATCH,
        )
        for k, (prompt, ids) in enumerate(zip(asked, answers, strict=True)):
            text = tokenizer.decode_response(ids)
            row: dict[str, Any] = {
                "prompt": as_json(prompt),
                "model": name,
                "response": text,
                "finished": ids[-1] == tokenizer.end_of_text,
                "tokens": len(ids),
                "seed": seeds[k],
            }
            if isinstance(prompt, str) and (marks := marks_of(prompt, text)):
                row["marks"] = marks
            rows[k // settings.n].append(row)
    return rows


def marks_of(prompt: str, response: str) -> dict[str, float]:
    """The marks of the world whose judge knows the prompt, with the true reward first; {} if none does."""
    for world in WORLDS.values():
        with suppress(ValueError):
            marks = world.judge(prompt, response)
            return {"reward": reward(marks), **marks, **world.count(prompt, response)}
    return {}


def reply_as_text(row: dict, as_json: bool) -> str:
    """An answer as a JSON object, or as text no wider than the terminal, with the marks of the judge."""
    if as_json:
        return json.dumps(row)
    text = row["response"] + ("" if row["finished"] else f" [cut after {row['tokens']} tokens]")
    if "marks" in row:
        whole, *parts = (f"{name} {value:.1f}" for name, value in row["marks"].items())
        text += f"\n(true {whole}: {', '.join(parts)})"
    margin = f"{row['model']:>5}  "
    width = max(20, get_terminal_size().columns - len(margin))
    lines = [
        piece
        for line in text.split("\n")
        for piece in textwrap.wrap(line, width, replace_whitespace=False) or [""]
    ]
    return margin + f"\n{'':{len(margin)}}".join(lines)


if __name__ == "__main__":
    run_command(main)
