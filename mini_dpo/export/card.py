"""The model card of an exported model: what it is, how it was made, what was measured, how to load it."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from mini_dpo.errors import UserError, expecting
from mini_dpo.evaluation.table import closing_table
from mini_dpo.files import read_json
from mini_dpo.losses.registry import shown
from mini_dpo.model import GPT
from mini_dpo.tokenizer import Tokenizer
from mini_dpo.train.parsing import read_config

LOADING = """\
```python
import transformers  # pip install transformers

folder = "."  # this folder, or the path to it
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = transformers.AutoModelForCausalLM.from_pretrained(folder)
messages = [{"role": "user", "content": "Hello!"}]
text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
ids = tokenizer(text, return_tensors="pt")
answer = model.generate(**ids, max_new_tokens=50)[0, ids["input_ids"].shape[1] :]  # sampled anew each time
print(tokenizer.decode(answer, skip_special_tokens=True))
```
"""


def model_card(run: Path, stage: str, model: GPT, tokenizer: Tokenizer) -> str:
    """The text of the card. stage: "sft" or "dpo", the name of the checkpoint. The run's own settings and
    table are in it where `run` is a run's folder.
    """
    vocabulary = {"gpt2": "GPT-2", "toy": "the toy shop"}.get(tokenizer.name, "its world")
    size = sum(weights.numel() for weights in model.parameters())
    lines = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [gpt2, dpo]\n---",
        f"# A GPT-2 of {size:,} parameters, trained with mini_dpo",
        f"It has {model.config.n_layer} blocks, {model.config.n_embd} channels, a context of "
        f"{model.config.context} tokens and {vocabulary}'s "
        "vocabulary, with a token for each of `<|user|>`, `<|assistant|>`, `<|system|>`.",
        *(made(run, stage) if run.is_dir() else []),
        "## Load it",
        LOADING.rstrip(),
        "Text from a user should be encoded with `split_special_tokens=True`: otherwise a text that spells a "
        "marker becomes that marker. The chat template refuses such messages.",
    ]
    return "\n\n".join(lines) + "\n"


def made(run: Path, stage: str) -> list[str]:
    """How the model was made, and what was measured of it."""
    settings, _ = read_config(run)
    own = settings.sft_data is not None and settings.data is None  # SFT alone
    told: dict[str, Any] = {
        "begun from": Path(settings.init_from).name if settings.init_from else "random weights",
        "preferences": None if own else Path(settings.source).name,
        "responses to imitate": Path(settings.sft_data).name if settings.sft_data else None,
        "stage": stage,
        "seed": settings.seed,
    }
    if stage == "dpo":
        told["loss"] = settings.loss.rsplit(":", 1)[-1]
        told |= {name: shown(value) for name, value in settings.loss_options.items()}
    table = "\n".join(f"| {name} | {in_a_cell(value)} |" for name, value in told.items() if value is not None)
    lines = ["## How it was made", f"| | |\n|---|---|\n{table}"]
    try:
        summary = read_json(run / "summary.json")
    except UserError:  # a run that was stopped before it was measured
        return lines
    if summary.get("id") != settings.id or summary.get("unfinished"):
        return lines
    with expecting(run / "summary.json", "the table of a run"):
        return [*lines, "## What was measured", f"```text\n{closing_table(summary)}\n```"]


def in_a_cell(value: object) -> str:
    """A value as text in a table of Markdown, where it can be nothing but text."""
    text = "".join(c if c.isprintable() else " " for c in str(value))[:200]
    return html.escape(re.sub(r"([\\`*_\[\]|])", r"\\\1", text))
