"""The shop's answers, one by one: what chapters 16 and 18 compute with.

    python -m tutorials.answers      draws more answers, and keeps numbers; three minutes

The runs are those of `python -m tutorials.measure online`, and are made where they are missing. For each of
five seeds: the reward and the length of every held-out answer of the SFT model, of DPO on the clerks' pairs
(offline) and on the policy's own (online); and for a few prompts how varied each model's answers are.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from statistics import fmean, stdev

import torch

from mini_dpo.batches import Encoded, collate
from mini_dpo.claims.shop import samples_of
from mini_dpo.cli import run_command
from mini_dpo.corpus.worlds import world_corpus
from mini_dpo.evaluation.measuring import judge_all
from mini_dpo.files import read_json, write_json
from mini_dpo.generate import generate
from mini_dpo.logprobs import score_reference
from mini_dpo.model import GPT
from mini_dpo.saving.checkpoint import load_model
from mini_dpo.worlds.shop import judge
from tutorials.kept import KEPT, SEEDS
from tutorials.measure import RUNS, SHORT, of_online

FILE = KEPT / "answers.json"
PROMPTS, DRAWS = 4, 64
# who answers, and at which temperature
WAYS = {
    "SFT": ("sft", 1.0),
    "SFT at 0.7": ("sft", 0.7),
    "SFT at 0.5": ("sft", 0.5),
    "offline": ("offline", 1.0),
    "online": ("online", 1.0),
}


def kept() -> dict[str, dict]:
    """What is kept, by seed; the numbers of single answers as lists."""
    found = read_json(FILE)["seeds"]
    for of_seed in found.values():
        for of_model in of_seed["answers"].values():
            of_model.update({key: [float(x) for x in line.split()] for key, line in of_model.items()})
    return found


def folders(seed: int) -> tuple[Path, Path]:
    """The runs of a seed: offline and online. They are made if they are missing."""
    of_online(SHORT, "online", "three rounds", seed)
    return RUNS / f"short-{seed}", RUNS / f"online-{seed}-3"


def measure(seed: int) -> dict[str, dict]:
    """{"answers": model -> reward and words of each, "drawn": way -> how varied they are}."""
    offline, online = folders(seed)
    rows, more = samples_of(offline), samples_of(online)
    answers = {
        "sft": numbers_of(rows, "sft"),
        "offline": numbers_of(rows, "dpo"),
        "online": numbers_of(more, "dpo"),
    }
    paths = {"sft": offline / "sft.pt", "offline": offline / "dpo.pt", "online": online / "dpo.pt"}
    return {
        "answers": answers,
        "drawn": {name: draw(paths[model], heat, seed) for name, (model, heat) in WAYS.items()},
    }


def numbers_of(rows: list[dict], model: str) -> dict[str, str]:
    """The true reward and the number of words of each held-out answer, a line of numbers each."""
    numbers = {
        "reward": [row["marks"][model]["reward"] for row in rows],
        "words": [len(row[model].split()) for row in rows],
    }
    return {key: " ".join(f"{x:g}" for x in values) for key, values in numbers.items()}


def draw(path: Path, temperature: float, seed: int) -> dict[str, float]:
    """DRAWS answers to each of some prompts. distinct: how many of the DRAWS differ, the mean over prompts.
    entropy: the mean of -log pi over answers, in nats: an unbiased estimate. reward: the true one.
    """
    model, tokenizer = load_model(path)
    model = heated(model, temperature)
    prompts = list(world_corpus("shop", tokenizer, model.config.context).held_out.prompts[:PROMPTS])
    asked = [prompt for prompt in prompts for _ in range(DRAWS)]
    encoded = [tokenizer.encode_prompt(prompt) for prompt in asked]
    ids = generate(model, encoded, end_of_text=tokenizer.end_of_text, max_new_tokens=80, seed=seed)
    batch = collate([Encoded(prompt, response) for prompt, response in zip(encoded, ids, strict=True)])
    texts = [tokenizer.decode_response(response) for response in ids]
    marks = judge_all(judge, asked, texts)
    return {
        "distinct": len(set(zip(map(str, asked), texts, strict=True))) / PROMPTS,
        "entropy": -float(score_reference(model, batch).mean()),
        "reward": fmean(mark["reward"] for mark in marks),
    }


def heated(model: GPT, temperature: float) -> GPT:
    """The model whose distribution is this one's at a temperature: all logits are divided by it. The output
    matrix is multiplied with what the last layer norm returns.
    """
    model = deepcopy(model)
    with torch.no_grad():
        model.ln_f.weight /= temperature
        model.ln_f.bias /= temperature
    return model


def variety_table(found: dict[str, dict]) -> str:
    """A line a way: reward, entropy and different answers, as mean ± standard deviation over seeds."""
    shown = {"reward": ".2f", "entropy": ".1f", "distinct": ".1f"}
    lines = [f"{'':14}{'true reward':>15}{'entropy, nats':>15}{f'different of {DRAWS}':>18}"]
    for way in WAYS:
        values = {key: [of_seed["drawn"][way][key] for of_seed in found.values()] for key in shown}
        cells = [f"{fmean(values[key]):{form}} ± {stdev(values[key]):{form}}" for key, form in shown.items()]
        lines.append(f"{way:14}{cells[0]:>15}{cells[1]:>15}{cells[2]:>18}")
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    found = {}
    for seed in SEEDS:
        found[str(seed)] = measure(seed)
        drawn = found[str(seed)]["drawn"]
        print(f"seed {seed}: " + ", ".join(f"{k} {v['distinct']:.1f}" for k, v in drawn.items()), flush=True)
    write_json(FILE, {"seeds": found})
    print(variety_table(found))


if __name__ == "__main__":
    run_command(main)
