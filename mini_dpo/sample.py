"""Talk to a run: the SFT model and the preference-trained one answer the same prompt.

    python -m mini_dpo.sample runs/1
    python -m mini_dpo.sample runs/1 --prompt "Ada here. On Friday you sold me a kettle, and now it bites."
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mini_dpo.checkpoint import find_model, load_model, read_json
from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.data import check_text
from mini_dpo.errors import UserError
from mini_dpo.evaluate import heading
from mini_dpo.generate import check_settings, generate
from mini_dpo.model import GPT
from mini_dpo.shop import judge, read_prompt
from mini_dpo.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class SampleSettings:
    """How to answer."""

    prompt: str | None = option(str, "answer this and stop; without it, one prompt a line until an empty line or Ctrl-D")
    temperature: float = option(float, "1 draws from the model as it is, lower is bolder, 0 takes the likeliest token", 1.0)
    top_k: int | None = option(int, "draw only from the so many likeliest tokens")
    top_p: float | None = option(float, "draw only from the fewest tokens that hold this much probability")
    max_new_tokens: int = option(int, "longest answer, in tokens", 200)
    seed: int = option(int, "of the draw", 0)


def main() -> None:
    parser = parser_for(SampleSettings, "sample", "Talk to a run: SFT and DPO answer the same prompt.", arguments="RUN ")
    parser.add_argument("run", metavar="RUN", help="a run's folder, or a checkpoint file")
    given = vars(parser.parse_args())
    run = Path(given.pop("run"))
    settings = SampleSettings(**given)
    try:
        check_settings(settings.temperature, settings.top_k, settings.top_p)
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-')}") from error
    if settings.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens must be at least 1, not {settings.max_new_tokens}")
    if not 0 <= settings.seed < 2**31:
        raise UserError(f"--seed must be in [0, 2^31), not {settings.seed}")
    models = load_models(run)
    for i, prompt in enumerate([settings.prompt] if settings.prompt is not None else ask()):
        try:
            check_text("the prompt", prompt, may_be_empty=True)
            for name, (model, tokenizer) in models.items():
                print(f"{name:>5}  {answer(model, tokenizer, prompt, settings, settings.seed + i)}")
        except UserError as error:
            if settings.prompt is not None:
                raise
            print(f"error: {error}", file=sys.stderr)  # in a conversation, one bad prompt is not the end


def load_models(run: Path) -> dict[str, tuple[GPT, Tokenizer]]:
    """The models of a run by name: SFT and, if that stage has begun, the loss it is trained with. A file is one model."""
    paths = {"SFT": run / "sft.pt"}
    if (run / "dpo.pt").exists():
        settings = read_json(run / "config.json")["settings"]
        paths = {settings.get("start", "SFT"): run / "sft.pt", heading(settings["loss"]): run / "dpo.pt"}
    if not (run / "sft.pt").exists():
        file = find_model(run)
        paths = {file.stem.upper(): file}
    models = {name: load_model(path, dropout=0.0) for name, path in paths.items()}
    return {name: (model, load_tokenizer(tokenizer)) for name, (model, tokenizer) in models.items()}


def ask() -> Iterator[str]:
    """Prompts from the keyboard (or a pipe), one a line."""
    if sys.stdin.isatty():
        print('A prompt a line; an empty line ends. The toy shop expects, for example:\n  "Ada here. On Friday you sold me a kettle, and now it bites."')
    while True:
        try:
            prompt = input("you >  " if sys.stdin.isatty() else "")
        except EOFError:
            return
        if not prompt:
            return
        yield prompt


def answer(model: GPT, tokenizer: Tokenizer, prompt: str, settings: SampleSettings, seed: int) -> str:
    """One answer, with the judge's marks where the prompt is one that the shop's judge understands."""
    ids = generate(
        model,
        [tokenizer.encode_prompt(prompt)],
        end_of_text=tokenizer.end_of_text,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_k=settings.top_k,
        top_p=settings.top_p,
        seed=seed,
    )[0]
    text = tokenizer.decode_response(ids)
    shown = text if ids[-1] == tokenizer.end_of_text else f"{text} [cut after {len(ids)} tokens]"
    if read_prompt(prompt) is None:
        return shown
    verdict = judge(prompt, text)
    return f"{shown}\n{'':5}  (true reward {verdict.reward:.1f}: facts {verdict.facts}, tone {verdict.tone:.1f}, length {verdict.length:.1f})"


if __name__ == "__main__":
    run_command(main)
