"""Where the time of a DPO step goes, measured: a naive step first, then each idea added, with the ratio that it buys.

    python -m mini_dpo.bench                        the small shape, on the CPU or one GPU
    python -m mini_dpo.bench --model gpt2           GPT-2's shape with its vocabulary of 50,257
    python -m mini_dpo.bench --growth               how the cost grows with prompt, response, batch, vocabulary, layers

Each row is a process of its own, so that the peak of its memory is its own too; all rows see the same batches, made
from the seed, and the same model. Where the packages trl and transformers can be imported, TRL's trainer runs the same
batches with the same optimizer, and the last table says how much slower it is.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from mini_dpo.files import write_json
from mini_dpo.cli import option, parser_for, run_command
from mini_dpo.data import Encoded, EncodedPair, PairBatch, collate, collate_pairs, join
from mini_dpo.devices import NO_DEVICE, keep_freed_memory, pick_device, trouble_with
from mini_dpo.dpo import freeze, precompute_reference, preference_objective
from mini_dpo.errors import UserError, did_you_mean
from mini_dpo.losses import LOSSES, PairLogps, Responses
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.training import LoopConfig, Objective, Outcome, make_optimizer, train_step

SHAPES = {"toy": GPTConfig(vocab_size=512, context=512, n_layer=4, n_head=4, n_embd=256), "gpt2": GPTConfig()}
BETA = 0.1


@dataclass(frozen=True)
class BenchSettings:
    """What to measure."""

    model: str = option(str, "the shape: toy is 4 blocks of 256 channels and 512 tokens, gpt2 GPT-2's smallest", "toy", tuple(SHAPES))
    device: str = option(str, "where to compute; auto takes cuda, else cpu", "auto", ("auto", "cpu", "cuda"))
    dtype: str = option(str, "of all rows but the last, which shows bfloat16", "float32", ("float32", "bfloat16"))
    batch_size: int | None = option(int, "pairs a batch (default: 8; 4 for gpt2)")
    batches: int | None = option(int, "batches, each of other lengths (default: 8; 4 for gpt2)")
    repeats: int = option(int, "how often each batch is measured; its median counts", 5)
    compile: bool = option(bool, "a further row with torch.compile", False)
    growth: bool = option(bool, "show how the cost grows instead of the ladder", False)
    seed: int = option(int, "of weights and batches", 0)
    json: str | None = option(str, "write everything that was measured to this file as well", metavar="PATH")
    row: str | None = option(str, "measure this row alone, in this process, and print it as JSON")


def main() -> None:
    settings = BenchSettings(**vars(parser_for(BenchSettings, "bench", __doc__.split("\n\n")[0]).parse_args()))
    for name in ("batch_size", "batches", "repeats"):
        if getattr(settings, name) is not None and getattr(settings, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(settings, name)}")
    if settings.device != "auto" and (trouble := trouble_with(settings.device)):
        raise UserError(NO_DEVICE.format(settings.device, trouble))
    small = settings.model == "toy"
    settings = replace(
        settings,
        device=pick_device(settings.device),
        batch_size=settings.batch_size or (8 if small else 4),
        batches=settings.batches or (8 if small else 4),
    )
    if settings.row and settings.row not in MEASUREMENTS:
        raise UserError(f"there is no row {settings.row}{did_you_mean(settings.row, MEASUREMENTS)}; the rows are {', '.join(MEASUREMENTS)}")
    if settings.row:
        print(json.dumps(MEASUREMENTS[settings.row](settings)))
        return
    results = growth_table(settings) if settings.growth else ladder_table(settings)
    if settings.json:
        write_json(Path(settings.json), results)


# ----------------------------------------------------------------------------------------------------- the workload


def make_pairs(settings: BenchSettings) -> list[list[EncodedPair]]:
    """Batches of pairs of random tokens: prompts of 20 to 200, responses of 10 to 200 with a median of 60."""
    draw = random.Random(settings.seed)
    V = SHAPES[settings.model].vocab_size

    def text(n: int) -> list[int]:
        return [draw.randrange(V) for _ in range(n)]

    def pair() -> EncodedPair:
        prompt = text(draw.randint(20, 200))
        chosen, rejected = (text(min(200, max(10, round(draw.lognormvariate(math.log(60), 0.7))))) for _ in range(2))
        return EncodedPair(join(prompt, chosen), join(prompt, rejected))

    return [[pair() for _ in range(settings.batch_size)] for _ in range(settings.batches)]


def count_tokens(batches: list[list[EncodedPair]]) -> dict[str, float]:
    """Per pair: the tokens of a packed row, those of two padded rows, those without padding, those of responses."""
    pairs = [pair for batch in batches for pair in batch]
    longest = [max(pair.length for pair in batch) for batch in batches for _ in batch]
    responses = sum(len(s.split()[1]) for pair in pairs for s in (pair.chosen, pair.rejected))
    counts = {
        "packed": sum(pair.n_tokens for pair in pairs),
        "padded": 2 * sum(longest),
        "sequences": sum(pair.chosen.length + pair.rejected.length for pair in pairs),
        "responses": responses,
    }
    return {name: count / len(pairs) for name, count in counts.items()}


def floor_flops(config: GPTConfig, tokens: dict[str, float]) -> float:
    """The multiplications and additions that a pair cannot do without: two for each weight of a matrix and token in the
    forward pass and four in the backward pass, the prompt once, the output matrix at response tokens only, no reference."""
    return 6 * (12 * config.n_layer * config.n_embd**2 * tokens["packed"] + config.vocab_size * config.n_embd * tokens["responses"])


# ------------------------------------------------------------------------- the steps that the ladder leaves behind


def pad(sequences: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Sequences side by side, filled up with zeros: ids (B, T), response mask (B, T)."""
    shape = len(sequences), max(s.length for s in sequences)
    ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    for row, s in enumerate(sequences):
        ids[row, : s.length] = torch.tensor(s.ids)
        mask[row, : s.length] = torch.tensor(s.response_mask)
    return ids, mask


def logps_of_everything(model: GPT, ids: Tensor, mask: Tensor) -> Tensor:
    """What most tutorials write: logits at every position, then a mask: (B,)."""
    logits = model(ids)[:, :-1]  # (B, T - 1, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logps = logits.log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)  # (B, T - 1)
    return (logps * mask[:, 1:]).sum(1)


def logps_at_responses(model: GPT, ids: Tensor, mask: Tensor) -> Tensor:
    """The same rows, and the output matrix only where a response token is predicted: (B,)."""
    owners, positions = mask.nonzero(as_tuple=True)  # (R,), (R,)
    logits = model.logits(model.hidden(ids)[owners, positions - 1])  # (R, V)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logps = -F.cross_entropy(logits, ids[owners, positions], reduction="none")  # (R,)
    return logps.new_zeros(len(ids)).index_add(0, owners, logps)


def padded_objective(reference: GPT, score: Callable[[GPT, Tensor, Tensor], Tensor]) -> Objective:
    """DPO on padded rows (all chosen, then all rejected), scored by one of the two functions above."""

    def objective(policy: GPT, batch: MovedPair) -> Outcome:
        logps = score(policy, batch.ids, batch.mask)  # (2B,)
        with torch.no_grad():
            ref = score(reference, batch.ids, batch.mask)
        chosen, rejected = (Responses(p, p.new_ones(len(p)), r) for p, r in zip(logps.chunk(2), ref.chunk(2)))
        losses = LOSSES["dpo"](PairLogps(chosen, rejected), beta=BETA)
        return Outcome(losses.sum(), len(losses), {})

    return objective


@dataclass(frozen=True)
class MovedPair:
    """Padded pairs, in the form that the training loop asks of a batch."""

    ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> MovedPair:
        return MovedPair(self.ids.to(device), self.mask.to(device))


class LoopAdamW(torch.optim.AdamW):
    """torch's default: a loop over the parameters. It cannot skip a step that is not finite, as the fused kernel can."""

    def step(self) -> None:
        del self.found_inf
        super().step()


def collate_padded(pairs: list[EncodedPair]) -> MovedPair:
    return MovedPair(*pad([p.chosen for p in pairs] + [p.rejected for p in pairs]))


def collate_apart(pairs: list[EncodedPair]) -> PairBatch:
    """One packed row in which each response has a prompt of its own."""
    return PairBatch(collate([s for p in pairs for s in (p.chosen, p.rejected)]), None)


# ---------------------------------------------------------------------------------------------- measuring one row


def measure(settings: BenchSettings, name: str) -> dict:
    """One row of the ladder: prepare, warm up, time each batch's step, note the peak of memory."""
    rung = RUNGS[name]
    if rung.keeps_memory:
        keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.manual_seed(settings.seed)
    before = resident_peak(settings.device)
    policy = GPT(SHAPES[settings.model]).to(settings.device)
    reference = freeze(policy)
    batches = make_pairs(settings)
    dtype = rung.dtype or settings.dtype
    if rung.precomputed:
        batches = [precompute_reference(reference, pairs, dtype, settings.batch_size) for pairs in batches]
        reference = None
    if rung.compiled:
        policy.compile_blocks()
    config = LoopConfig(steps=10**6, lr=1e-5, dtype=dtype)
    optimizer = make_optimizer(policy, config)
    if not rung.fused:
        optimizer = LoopAdamW(policy.parameters(), lr=config.lr, weight_decay=0.0)
    objective = padded_objective(reference, rung.padded) if rung.padded else preference_objective(LOSSES["dpo"], {"beta": BETA}, reference)
    step = lambda pairs: train_step(policy, optimizer, objective, [rung.collate(pairs)], config, step=0)  # noqa: E731
    return time_steps(settings, step, batches, before)


def time_steps(settings: BenchSettings, step: Callable, batches: list, before: float) -> dict:
    """Each batch once to warm up, then `repeats` times; the median of each counts."""
    seconds: list[list[float]] = [[] for _ in batches]
    for repeat in range(settings.repeats + 1):
        for batch, times in zip(batches, seconds):
            taken = seconds_of(settings, partial(step, batch))
            if repeat:
                times.append(taken)
    rounds = [sum(times[r] for times in seconds) for r in range(settings.repeats)]
    pairs = settings.batch_size * len(batches)
    return {
        "pairs_per_second": pairs / sum(median(times) for times in seconds),
        "slowest_round": pairs / max(rounds),
        "fastest_round": pairs / min(rounds),
        "megabytes": (resident_peak(settings.device) - before) / 1e6,
    }


def seconds_of(settings: BenchSettings, run: Callable[[], object]) -> float:
    """How long it takes, until the device has done what it was told."""
    started = now(settings.device)
    run()
    return now(settings.device) - started


def now(device: str) -> float:
    """The time in seconds, when the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def resident_peak(device: str) -> float:
    """The most memory used so far, in bytes: of the GPU's, or what the process had in RAM (0 where Python cannot say)."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_gemm(settings: BenchSettings, dtype: torch.dtype) -> float:
    """The rate in FLOP/s at which this machine multiplies the matrices of a step, forward and backward: an upper limit
    for any step made of them."""
    keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = True
    config, tokens = SHAPES[settings.model], count_tokens(make_pairs(settings))
    C, T, R = config.n_embd, *(round(settings.batch_size * tokens[name]) for name in ("packed", "responses"))
    body = [(T, C, 3 * C), (T, C, C), (T, C, 4 * C), (T, 4 * C, C)]
    flops, seconds = 0.0, 0.0
    for (n, k, m), times in [(shape, config.n_layer) for shape in body] + [((R, C, config.vocab_size), 1)]:
        x, w, g = (torch.randn(shape, device=settings.device, dtype=dtype) for shape in ((n, k), (m, k), (n, m)))
        for product in (lambda: x @ w.T, lambda: g @ w, lambda: g.T @ x):
            product()
            taken = [seconds_of(settings, product) for _ in range(max(5, settings.repeats))]
            flops, seconds = flops + times * 2 * n * k * m, seconds + times * median(taken)
    return flops / seconds


# --------------------------------------------------------------------------------------------------------- the ladder


@dataclass(frozen=True)
class Rung:
    """A row: what it adds to the one before, and how its step is made."""

    idea: str
    collate: Callable = collate_pairs
    padded: Callable | None = None
    fused: bool = True
    keeps_memory: bool = True
    precomputed: bool = False
    compiled: bool = False
    dtype: str | None = None


RUNGS = {
    "naive": Rung("padded rows, logits everywhere, a live reference", collate_padded, logps_of_everything, fused=False, keeps_memory=False),
    "fused": Rung("+ AdamW in one fused kernel", collate_padded, logps_of_everything, keeps_memory=False),
    "keep": Rung("+ keep freed memory (CPU)", collate_padded, logps_of_everything),
    "responses": Rung("+ output matrix at response tokens only", collate_padded, logps_at_responses),
    "packed": Rung("+ one row without padding", collate_apart),
    "shared": Rung("+ each prompt once", collate_pairs),
    "precomputed": Rung("+ reference scored beforehand", precomputed=True),
    "bfloat16": Rung("+ products in bfloat16", precomputed=True, dtype="bfloat16"),
    "compiled": Rung("+ torch.compile", precomputed=True, dtype="bfloat16", compiled=True),
}


def ladder_table(settings: BenchSettings) -> dict:
    """Measure and print row by row; return all of it."""
    config, tokens = SHAPES[settings.model], count_tokens(make_pairs(settings))
    results = {"settings": workload(settings), "where": where(settings), "tokens": tokens, "floor_flops": floor_flops(config, tokens)}
    results["gemm"] = {dtype: run_row(settings, f"gemm-{dtype}") for dtype in dict.fromkeys((settings.dtype, "bfloat16"))}
    results |= {"rows": {}, "trl": {}}
    print(heading(results), flush=True)
    for name, rung in RUNGS.items():
        if (rung.compiled and not settings.compile) or (settings.device == "cuda" and name == "keep"):
            continue
        results["rows"][name] = run_row(settings, name)
        print(line(results, name), flush=True)
    if not all(importlib.util.find_spec(name) for name in ("trl", "transformers")):
        print("\nTRL is not installed, so it is not measured (pip install trl transformers)")
        return results
    print(trl_heading(), flush=True)
    for name, (ours, _, _, tuned) in TRL_ROWS.items():
        if not (tuned and settings.device == "cuda"):
            results["trl"][name] = run_row(settings, f"trl-{ours}", TUNED if tuned else None)
            print(trl_line(results, name), flush=True)
    return results


def report(results: dict) -> str:
    """What `ladder_table` prints, from what it returns (or what --json has kept)."""
    lines = [heading(results), *(line(results, name) for name in results["rows"])]
    if results["trl"]:
        lines += [trl_heading(), *(trl_line(results, name) for name in results["trl"])]
    return "\n".join(lines)


def heading(results: dict) -> str:
    """What is measured, what it needs at least, and the names of the columns."""
    settings, tokens, config = results["settings"], results["tokens"], SHAPES[results["settings"]["model"]]
    rates = " and ".join(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in results["gemm"].items())
    return "\n".join(
        [
            f"{settings['model']}: {config.n_layer} blocks x {config.n_embd}, vocabulary {config.vocab_size:,}; {settings['batches']} batches of {settings['batch_size']} pairs, {results['where']}",
            f"a pair: {tokens['padded']:.0f} tokens in padded rows, {tokens['sequences']:.0f} without padding, {tokens['packed']:.0f} with the prompt once, {tokens['responses']:.0f} of them in responses",
            f"the floor: {results['floor_flops'] / 1e9:.2f} GFLOP a pair; these matrices alone run at {rates}",
            "",
            f"{'':50}{'pairs/s':>9}{'':17}{'tokens/s':>10}{'MB':>8}{'of floor':>10}{'buys':>8}",
        ]
    )


def line(results: dict, name: str) -> str:
    """A row of the ladder, with what it gains over the row before."""
    names = list(results["rows"])
    before = results["rows"][names[names.index(name) - 1]] if names.index(name) else None
    row = results["rows"][name]
    gain = f"{row['pairs_per_second'] / before['pairs_per_second']:7.2f}x" if before else ""
    return measured(results, RUNGS[name].idea, row, RUNGS[name].dtype) + gain


def trl_heading() -> str:
    return f"\n{'TRL on the same batches':50}{'pairs/s':>9}{'':17}{'tokens/s':>10}{'MB':>8}{'of floor':>10}{'ours':>8}{'memory':>8}"


def trl_line(results: dict, name: str) -> str:
    """A row of TRL's, with how much faster the row of ours that does the same is, and what share of the memory it takes."""
    ours, _, dtype, _ = TRL_ROWS[name]
    row, our_row = results["trl"][name], results["rows"][ours]
    speed, memory = our_row["pairs_per_second"] / row["pairs_per_second"], our_row["megabytes"] / (row["megabytes"] or math.nan)
    return measured(results, name, row, dtype) + f"{speed:7.2f}x{memory:7.2f}x"


def measured(results: dict, title: str, row: dict, dtype: str | None) -> str:
    """Speed, its spread from round to round, memory, and the share of the floor's speed. Tokens a second are those of
    the packed row, whatever the row made of them."""
    speed, tokens = row["pairs_per_second"], results["tokens"]["packed"]
    share = results["floor_flops"] * speed / results["gemm"][dtype or results["settings"]["dtype"]]
    spread = f"({row['slowest_round']:.3g} - {row['fastest_round']:.3g})"
    return f"{title:50}{speed:>9.3g}  {spread:15}{speed * tokens:>10,.0f}{row['megabytes']:>8,.0f}{share:>9.0%} "


def where(settings: BenchSettings) -> str:
    """What is computing."""
    if settings.device == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.get_num_threads()} CPU thread{'s' * (torch.get_num_threads() > 1)}"


def workload(settings: BenchSettings) -> dict:
    """The settings that decide what is measured, and not what is printed or where it is kept."""
    names = ("model", "device", "dtype", "batch_size", "batches", "repeats", "seed")
    return {name: getattr(settings, name) for name in names}


def run_row(settings: BenchSettings, name: str, environment: dict[str, str] | None = None):
    """Measure a row in a process of its own."""
    flags = [part for key, value in workload(settings).items() for part in (f"--{key.replace('_', '-')}", str(value))]
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run([sys.executable, "-m", "mini_dpo.bench", "--row", name, *flags], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, **(environment or {})})  # fmt: skip
    if done.returncode:
        raise UserError(f"the row {name} failed:\n{done.stderr.strip()[-2000:]}")
    *said, result = done.stdout.strip().splitlines()
    print(*said, sep="\n", end="\n" * bool(said), flush=True)  # that a fast way is not used
    return json.loads(result)


# ------------------------------------------------------------------------------------------------- TRL beside it

TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000"}  # keep all freed memory, whatever its size
TRL_ROWS = {  # (our row to compare with, precomputed, dtype, whether freed memory is kept)
    "live reference": ("shared", False, None, False),
    "live reference, freed memory kept": ("shared", False, None, True),
    "precomputed reference": ("precomputed", True, None, False),
    "precomputed, freed memory kept": ("precomputed", True, None, True),
    "precomputed, bfloat16": ("bfloat16", True, "bfloat16", False),
    "precomputed, bfloat16, freed memory kept": ("bfloat16", True, "bfloat16", True),
}


def measure_trl(settings: BenchSettings, precomputed: bool, dtype: str | None) -> dict:
    """A step of TRL's DPOTrainer: its collator, its loss, and the same optimizer and clipping as ours."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from trl import DPOConfig, DPOTrainer

    torch.backends.cuda.matmul.allow_tf32 = True
    before = resident_peak(settings.device)
    shape = SHAPES[settings.model]
    words = Tokenizer(models.WordLevel({str(i): i for i in range(shape.vocab_size)}, unk_token="0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    sizes = dict(vocab_size=shape.vocab_size, n_positions=shape.context, n_embd=shape.n_embd, n_layer=shape.n_layer, n_head=shape.n_head)
    config = GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = DPOConfig(output_dir=folder, report_to=[], use_cpu=settings.device == "cpu", bf16=False, gradient_checkpointing=False, max_length=None, per_device_train_batch_size=settings.batch_size, precompute_ref_log_probs=precomputed, beta=BETA)  # fmt: skip
        torch.manual_seed(settings.seed)
        model = GPT2LMHeadModel(config)
        trainer = DPOTrainer(
            model=model,
            ref_model=None if precomputed else copy.deepcopy(model),
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": "1 2", "chosen": "3", "rejected": "4"}] * settings.batch_size),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="0", eos_token="0"),
        )
    model = model.to(settings.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0, fused=True)
    autocast = partial(torch.autocast, settings.device, torch.bfloat16, enabled=(dtype or settings.dtype) == "bfloat16")

    def step(inputs: dict[str, Tensor]) -> None:
        inputs = {name: tensor.to(settings.device, non_blocking=True) for name, tensor in inputs.items()}
        optimizer.zero_grad()
        with autocast():
            loss = trainer.compute_loss(model, inputs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    batches = []
    for pairs in make_pairs(settings):
        rows = [{"prompt_ids": p.chosen.split()[0], "chosen_ids": p.chosen.split()[1], "rejected_ids": p.rejected.split()[1]} for p in pairs]
        known = {f"ref_{side}_logps": torch.zeros(len(pairs)) for side in ("chosen", "rejected")} if precomputed else {}
        batches.append(trainer.data_collator(rows) | known)
    return time_steps(settings, step, batches, before)


# ------------------------------------------------------------------------------------------------ how cost grows

SIZES = {"prompt": 64, "response": 64, "batch": 8, "vocabulary": 512, "layers": 4}  # what is doubled, and from where
TIMES = (1, 2, 4)


def growth_table(settings: BenchSettings) -> dict:
    """Double one size at a time, and print what comes of it; return it."""
    results = {"settings": workload(settings), "where": where(settings), "growth": run_row(settings, "growth")}
    print(growth_report(results))
    return results


def growth_report(results: dict) -> str:
    """What a step takes at 1, 2 and 4 times each size, the exponent of a power law through the three, and what one more
    costs: one more token of prompt in each pair, one more token in each response, one more pair, ..."""
    lines = [
        f"a step of {SIZES['batch']} pairs with a live reference, {SHAPES['toy'].n_embd} channels, {results['where']}; one size at a time is doubled, and doubled again",
        "",
        f"{'ms a step':22}" + "".join(f"{'x ' + str(t):>9}" for t in TIMES) + f"{'exponent':>11}{'ms for one more':>18}",
    ]
    for name, start in SIZES.items():
        ms = [1000 * seconds for seconds in results["growth"][name]]
        exponent = slope([math.log(t) for t in TIMES], [math.log(m) for m in ms])
        more = slope([start * t for t in TIMES], ms)
        lines.append(f"{name + ' (' + str(start) + ')':22}" + "".join(f"{m:9.1f}" for m in ms) + f"{exponent:11.2f}{more:18.3g}")
    return "\n".join(lines)


def slope(x: list[float], y: list[float]) -> float:
    """Of the straight line through points, by least squares."""
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y)) / sum((a - mean_x) ** 2 for a in x)


def measure_growth(settings: BenchSettings) -> dict[str, list[float]]:
    """Seconds a step at 1, 2 and 4 times each size, one case after the other."""
    keep_freed_memory()
    return {name: [time_case(settings, {**SIZES, name: t * start}) for t in TIMES] for name, start in SIZES.items()}


def time_case(settings: BenchSettings, sizes: dict[str, int]) -> float:
    """The median of several steps, after two that touch the memory they need."""
    step = growth_step(settings, sizes)
    return median([seconds_of(settings, step) for _ in range(settings.repeats + 2)][2:])


def growth_step(settings: BenchSettings, sizes: dict[str, int]) -> Callable[[], object]:
    """A step of the trainer's own for pairs of just these sizes."""
    draw = random.Random(settings.seed)
    text = lambda n: [draw.randrange(sizes["vocabulary"]) for _ in range(n)]  # noqa: E731
    prompts = [text(sizes["prompt"]) for _ in range(sizes["batch"])]
    batch = collate_pairs([EncodedPair(*(join(prompt, text(sizes["response"])) for _ in range(2))) for prompt in prompts])
    torch.manual_seed(settings.seed)
    policy = GPT(replace(SHAPES["toy"], vocab_size=sizes["vocabulary"], n_layer=sizes["layers"])).to(settings.device)
    config = LoopConfig(steps=10**6, lr=1e-5, dtype=settings.dtype)
    objective = preference_objective(LOSSES["dpo"], {"beta": BETA}, freeze(policy))
    return partial(train_step, policy, make_optimizer(policy, config), objective, [batch], config, 0)


MEASUREMENTS: dict[str, Callable[[BenchSettings], object]] = {
    **{name: partial(measure, name=name) for name in RUNGS},
    **{f"gemm-{name}": partial(measure_gemm, dtype=getattr(torch, name)) for name in ("float32", "bfloat16")},
    **{f"trl-{ours}": partial(measure_trl, precomputed=precomputed, dtype=dtype) for ours, precomputed, dtype, _ in TRL_ROWS.values()},
    "growth": measure_growth,
}

if __name__ == "__main__":
    run_command(main)
