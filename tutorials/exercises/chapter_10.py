"""Exercises of chapter 10, Make it yours. Then: python -m tutorials.exercises 10"""

from __future__ import annotations


def read_pairs(text: str) -> list[dict]:
    """10.1  The preferences in a JSONL file's text: a list of {"prompt": ..., "chosen": ..., "rejected":
    ...}.

    Blank lines are skipped, and other keys are left out. ValueError, with "line N" in its message (counted
    from 1), is raised for a line that is not a JSON object, that lacks one of the three keys, in which one of
    the three is not a string, or in which chosen or rejected is blank.
    """
    raise NotImplementedError


def hold_out(prompts: list[str], share: float) -> list[bool]:
    """10.2  For each example, whether it is kept for the end: about `share` of the distinct prompts, all
    examples of a prompt or none. It must depend on the prompt's text alone, today and tomorrow: not on the
    order, not on a seed, not on the other prompts. Hint: hashlib; Python's own `hash` of a string is another
    one in every process.
    """
    raise NotImplementedError


def training_bytes(parameters: int, live_reference: bool) -> int:
    """10.3  Bytes of memory for DPO in float32 with AdamW, without activations."""
    raise NotImplementedError
