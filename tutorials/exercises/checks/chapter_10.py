"""Checks of chapter 10."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys

from tutorials.exercises.checking import Properties, close, expect, registrar, shown

PROPERTIES: Properties = {}
prop = registrar(PROPERTIES)

ROW = {"prompt": "Hi?", "chosen": "Yes.", "rejected": "No."}
GOOD = json.dumps(ROW)


@prop(
    "read_pairs",
    says="good lines are read, in order; blank lines and other keys are not",
    usually="the text after the last line end is a blank line, too; a space is blank as well",
)
def good_lines(answer):
    for text in (GOOD, GOOD + "\n", f"\n{GOOD}\n \n{json.dumps({**ROW, 'prompt': '', 'score': 3})}\n"):
        found = answer(text)
        wanted = [
            {key: row[key] for key in ROW}
            for row in (json.loads(line) for line in text.split("\n") if line.strip())
        ]
        expect(found == wanted, f"{text!r} is read as {found!r}")


@prop(
    "read_pairs",
    says="a line end inside a text (written \\n in JSON), and signs such as U+2028, do not "
    "end a line of the file",
    usually='str.splitlines() cuts at a dozen signs; a JSONL line ends at "\\n" only',
)
def line_ends(answer):
    row = {**ROW, "chosen": "Yes.\u2028And\nno.\x0c"}
    text = json.dumps(row, ensure_ascii=False)
    try:
        found = answer(text)
    except ValueError as error:
        found = error
    expect(found == [row], f"{text!r} gives {found!r}")


BAD = {
    "no JSON": "{'prompt': 1}",
    "half a line": GOOD[:-1],
    "a list": "[1, 2]",
    "a number": "7",
    "no chosen": json.dumps({"prompt": "Hi?", "rejected": "No."}),
    "a number for a text": json.dumps({**ROW, "rejected": 7}),
    "an empty answer": json.dumps({**ROW, "chosen": ""}),
    "an answer of spaces": json.dumps({**ROW, "rejected": "  "}),
}


@prop(
    "read_pairs",
    says="a broken line raises ValueError that names the line, blank lines counted",
    usually="lines are counted from 0, or blank lines are not counted; a KeyError or "
    "TypeError; or something broken is accepted",
)
def broken_lines(answer):
    for what, line in BAD.items():
        try:
            found = answer(f"{GOOD}\n\n{line}\n{GOOD}")
        except ValueError as error:
            expect("line 3" in str(error), f"{what} on line 3 raises ValueError({str(error)!r})")
        except Exception as error:
            expect(False, f"{what} on line 3 raises {type(error).__name__}: {error}")
        else:
            expect(False, f"{what} on line 3 is read as {found!r}")


PROMPTS = [f"question {i}" for i in range(1000)]


@prop(
    "hold_out",
    says="about the share of the prompts is held out",
    usually="the wrong way round, or all and nothing",
)
def the_share(answer):
    for share in (0.05, 0.25, 0.5):
        found = sum(answer(PROMPTS, share)) / len(PROMPTS)
        expect(abs(found - share) < 0.04, f"of 1000 prompts a share of {share}: {found:.3f} is held out")


@prop(
    "hold_out",
    says="all examples of a prompt are held out, or none",
    usually="each example is decided on its own, so a prompt is both trained on and measured",
)
def all_or_none(answer):
    found = answer(PROMPTS + PROMPTS, 0.3)
    both = [p for p, a, b in zip(PROMPTS, found, found[len(PROMPTS) :], strict=False) if a != b]
    expect(not both, f"of two examples with the prompt {both and both[0]!r}, one is held out and one is not")


@prop(
    "hold_out",
    says="neither the order nor the other prompts matter",
    usually="a position in the list, a random number, or a sorted list of what is there",
)
def alone(answer):
    together = answer(PROMPTS, 0.3)
    expect(
        [bool(x) for x in answer(PROMPTS[::-1], 0.3)] == [bool(x) for x in together[::-1]],
        "in reverse order other prompts are held out",
    )
    for prompt, held in list(zip(PROMPTS, together, strict=False))[:50]:
        expect(
            bool(answer([prompt], 0.3)[0]) == bool(held),
            f"{prompt!r} is {'' if held else 'not '}held out among others, and "
            f"{'not ' if held else ''}on its own",
        )


@prop(
    "hold_out",
    says="tomorrow, in another process, the same prompts are held out",
    usually="Python's hash(): it is salted anew in every process",
)
def another_process(answer):
    here = [bool(x) for x in answer(PROMPTS[:64], 0.5)]
    module = inspect.getsourcefile(inspect.unwrap(answer))
    code = (
        f"import importlib.util as u, sys; s = u.spec_from_file_location('m', {module!r}); "
        "m = u.module_from_spec(s); sys.modules['m'] = m; s.loader.exec_module(m); print([bool(x) "
        f"for x in m.{answer.__name__}({PROMPTS[:64]!r}, 0.5)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
    )
    expect(
        done.stdout.strip() == str(here),
        "two processes hold out different prompts"
        if not done.returncode
        else f"in another process it fails: {done.stderr.strip().splitlines()[-1]}",
    )


@prop(
    "training_bytes",
    says="a live reference costs as much as the weights: its own, and nothing else",
    usually="gradients or averages for a model that is not trained",
)
def reference(answer):
    found = answer(1000, True) - answer(1000, False)
    expect(found == 4000, f"1000 parameters: a live reference costs {shown(found)} bytes")


@prop(
    "training_bytes",
    says="GPT-2's smallest model, reference known ahead: 1.85 GiB, as in the chapter",
    usually="AdamW keeps two averages a weight; the gradient is as large as the weight",
)
def gpt2(answer):
    found = answer(124_439_808, False) / 2**30
    expect(close(round(found, 2), 1.85), f"124,439,808 parameters: {found:.2f} GiB")
