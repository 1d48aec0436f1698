"""A GPU computes what the CPU computes: FlexAttention's kernel, the compiled blocks, TF32 and bfloat16, the
loop.

What is expected is always the plain padded computation in float64 on the CPU, or the CPU's own run.
"""

import contextlib
import copy

import pytest
import torch

from mini_dpo import training
from mini_dpo.batches import Encoded, EncodedPair, collate_pairs, pack
from mini_dpo.devices import autocast, lacks, out_of_memory, pick_device, trouble_with
from mini_dpo.fast import compiled, flex
from mini_dpo.fast.flex import attend_at_once, attention, block_mask
from mini_dpo.fast.trial import FastWay
from mini_dpo.feedback import collate_feedback, collate_for, split_pairs
from mini_dpo.generate import generate
from mini_dpo.logprobs import response_logps
from mini_dpo.losses import LOSSES
from mini_dpo.model import GPT, GPTConfig
from mini_dpo.objectives import preference_objective, sft_objective
from mini_dpo.optimizers import LoopConfig, make_optimizer
from mini_dpo.packing import attend_by_spans, lay_out
from mini_dpo.reference import freeze, precompute_reference
from mini_dpo.saving.checkpoint import load_checkpoint
from mini_dpo.train import __main__ as train_command
from mini_dpo.training import fetch, train_step
from tests.commands import SHORT, preference_file, run
from tests.test_packing import gradients, padded_loss, padded_response_logps

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no CUDA device: this machine, or this build of torch, has none"
)

# heads of 32 channels, as large as kernels want them at least, and a row that takes several of
# FlexAttention's blocks
SHAPE = GPTConfig(vocab_size=97, context=400, n_layer=2, n_head=2, n_embd=64)


@pytest.fixture(autouse=True)
def full_precision():
    """Products in true float32; the command turns TF32 on, which has 10 bits."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.fixture(autouse=True)
def fast_ways(monkeypatch, request):
    """Each test has trials of its own. Where a fast way was given up, the test fails, unless it `breaks` one
    itself.
    """
    monkeypatch.setattr(flex, "FLEX", FastWay("FlexAttention", "by spans"))
    monkeypatch.setattr(compiled, "COMPILE", FastWay("--compile", "without"))
    yield
    if "breaks" not in request.fixturenames:
        assert not flex.FLEX.given_up and not compiled.COMPILE.given_up, (
            "the line on standard output says why"
        )


@pytest.fixture
def breaks():
    """What a test asks for that gives up a fast way on purpose."""


def gpt(seed: int = 0, device: str = "cuda", dtype: torch.dtype = torch.float32) -> GPT:
    """A small GPT with opinions: drawn on the CPU, so that every device gets the same one."""
    torch.manual_seed(seed)
    model = GPT(SHAPE).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.to(device, dtype)


def twin(model: GPT) -> GPT:
    """The same on the CPU in float64."""
    return copy.deepcopy(model).to("cpu", torch.float64)


def some_trees(seed: int, sizes: list[tuple[int, ...]]) -> list:
    """Trees of random tokens: (prompt tokens, tokens of each response) of each."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda n: torch.randint(SHAPE.vocab_size, (n,), generator=generator).tolist()  # noqa: E731
    return [
        [Encoded(prompt, draw(n)) for n in responses]
        for first, *responses in sizes
        for prompt in [draw(first)]
    ]


def some_pairs(seed: int, n: int, longest: int = 60) -> list[EncodedPair]:
    """Pairs of assorted lengths, the shortest of one token everywhere."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (1 + torch.randint(longest, (n, 3), generator=generator)).tolist()
    return [EncodedPair(*tree) for tree in some_trees(seed, [(1, 1, 2), *map(tuple, sizes[1:])])]


ROWS = {
    "one block": [(5, 3, 9), (1, 1), (2, 30, 1)],
    "two blocks": [(100, 40, 30), (20, 10)],
    "many blocks": [(150, 90, 120), (1, 1), (3, 200, 2, 7), (128, 128), (60, 1, 1, 1, 1, 1)],
}
rows = pytest.mark.parametrize("sizes", ROWS.values(), ids=ROWS)


def assert_close(found, expected, tolerance: float) -> None:
    """Each tensor to `tolerance` of its largest entry; tensors that are tiny beside the others, to that of a
    thousandth of the largest of all.
    """
    largest = max(float(b.detach().abs().max()) for b in expected)
    for a, b in zip(found, expected, strict=True):
        scale = max(float(b.detach().abs().max()), 1e-3 * largest)
        error = float((a.detach().cpu().double() - b.detach().cpu().double()).abs().max())
        assert a.shape == b.shape and error <= tolerance * scale, (
            f"off by {error / scale:.1e} of the largest entry"
        )


# --- attention


@rows
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 3e-5), (torch.bfloat16, 2e-2)], ids=str)
def test_flex_attention_s_kernel_is_attention_by_spans(sizes, dtype, tolerance):
    """Values and gradients. Catches a block that is skipped, and a mask that the kernel reads in another
    order.
    """
    layout = lay_out(sizes)
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(3, 2, len(layout.positions), 32, generator=generator).to(dtype)
    weight = torch.randn(2, len(layout.positions), 32, generator=generator)
    found, expected = [], []
    for values, like, device in ((found, qkv.cuda(), "cuda"), (expected, qkv.double(), "cpu")):
        q, k, v = (z.clone().requires_grad_() for z in like.unbind())
        if device == "cuda":
            mixed = attend_at_once(q, k, v, block_mask(layout.to("cuda")))
        else:
            mixed = attend_by_spans(q, k, v, sizes)
        values += [mixed, *torch.autograd.grad((weight.to(mixed) * mixed).sum(), (q, k, v))]
    assert_close(found, expected, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tf32", ["highest", "high"])
@pytest.mark.parametrize("channels", [16, 32, 64])
def test_the_trial_accepts_this_card_s_kernel(dtype, tf32, channels, capsys):
    """For the heads of the toy (32) and of GPT-2 (64), and whether or not float32 is multiplied in TF32.
    Without a trial too many, and without a word.
    """
    torch.set_float32_matmul_precision(tf32)
    layout = lay_out(ROWS["many blocks"]).to("cuda")
    qkv = torch.randn(3, 4, len(layout.positions), channels, generator=torch.Generator().manual_seed(0)).to(
        "cuda", dtype
    )
    for again in range(2):
        mixed = attention(layout)(*qkv)
        torch.testing.assert_close(mixed, attend_by_spans(*qkv, layout.sizes), rtol=2e-2, atol=2e-2)
    assert (
        flex.FLEX.passed == {(3, channels, dtype)}
        and not flex.FLEX.given_up
        and capsys.readouterr().out == ""
    )


def test_dropout_goes_by_spans():
    assert attention(lay_out([(2, 3, 1)]).to("cuda"), 0.1).func is attend_by_spans


def broken(*args, **kwargs):
    raise RuntimeError("Cannot find a working triton installation.")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_card_without_the_kernel_or_a_compiler_trains_as_well(
    breaks, monkeypatch, capsys, dtype, recompute
):
    """Both are tried, both fail; a line each, and the log-probs and gradients of the same model without
    either.
    """
    model, batch, found = gpt(), pack(some_trees(0, ROWS["many blocks"])).to("cuda"), []
    model.recompute = recompute
    monkeypatch.setattr(flex, "compiled_flex_attention", lambda: broken)
    monkeypatch.setattr(compiled, "compiled", lambda half: broken)
    for given_up in (True, False):
        flex.FLEX.given_up = given_up
        if not given_up:
            compiled.compile_blocks(model)
        with autocast(torch.device("cuda"), dtype):
            logps = response_logps(model, batch)
        found.append([logps, *gradients(model, logps.sum())])
    assert_close(*found, 1e-4)
    out = capsys.readouterr().out
    assert out.count("FlexAttention is not used") == out.count("--compile is not used") == 1


def test_a_wrong_kernel_is_found(breaks, monkeypatch, capsys):
    """One that sees a token too many, computed on the card."""

    def leaking(q, k, v, block_mask):
        places = torch.arange(q.shape[2], device=q.device)
        seen = block_mask.mask_mod(0, 0, places[:, None], places)
        seen[127, 128] = True
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)

    monkeypatch.setattr(flex, "compiled_flex_attention", lambda: leaking)
    layout = lay_out(ROWS["two blocks"]).to("cuda")
    qkv = torch.randn(3, 2, len(layout.positions), 32, generator=torch.Generator().manual_seed(0)).to("cuda")
    assert torch.equal(attention(layout)(*qkv), attend_by_spans(*qkv, layout.sizes))
    assert "in a trial its values or gradients were off by" in capsys.readouterr().out


# --- log-probs and gradients


@rows
@pytest.mark.parametrize("how", ["as it is", "compiled", "recomputed", "compiled and recomputed"])
def test_log_probs_and_gradients_are_those_of_padded_rows_in_float64(sizes, how):
    model, trees = gpt(), some_trees(0, sizes)
    exact, sequences = twin(model), [s for tree in trees for s in tree]
    model.recompute = "recomputed" in how
    if "compiled" in how:
        compiled.compile_blocks(model)
    weight = torch.linspace(-1, 2, len(sequences), dtype=torch.float64)
    packed, padded = response_logps(model, pack(trees).to("cuda")), padded_response_logps(exact, sequences)
    assert packed.is_cuda and packed.dtype == torch.float32
    assert_close([packed], [padded], 1e-5)
    found, expected = gradients(model, weight.to(packed) @ packed), gradients(exact, weight @ padded)
    assert_close(found, expected, 1e-4)


@rows
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_bfloat16_is_near(sizes, compiled):
    """As near as three digits a product allow: no mask, shift or sum is another one's there. Log-probs are
    float32.
    """
    model, trees = gpt(), some_trees(1, sizes)
    exact, sequences = twin(model), [s for tree in trees for s in tree]
    if compiled:
        compiled.compile_blocks(model)
    with autocast(torch.device("cuda"), "bfloat16"):
        packed = response_logps(model, pack(trees).to("cuda"))
    padded = padded_response_logps(exact, sequences)
    assert packed.dtype == torch.float32
    torch.testing.assert_close(packed.detach().cpu().double(), padded.detach(), rtol=2e-2, atol=0.2)
    found, expected = gradients(model, packed.sum()), gradients(exact, padded.sum())
    for a, b in zip(found, expected, strict=True):
        assert float((a.cpu().double() - b).norm() / b.norm()) < 0.1


def test_dropout_trains_as_well():
    """Without the kernel: the same dropout for the same seed, and computed again the same."""
    batch, found = pack(some_trees(0, ROWS["two blocks"])).to("cuda"), []
    for again in (False, True):
        torch.manual_seed(0)
        model = GPT(GPTConfig(**{**vars(SHAPE), "dropout": 0.2})).cuda().train()
        model.recompute = again
        torch.manual_seed(1)
        logps = response_logps(model, batch)
        found.append([logps, *gradients(model, logps.sum())])
    assert_close(*found, 1e-4)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_every_loss_is_the_cpu_s(loss):
    """With its gradient, from a whole objective: live reference, mismatched responses and metrics
    included.
    """
    policy, reference = gpt(0), freeze(gpt(7)) if loss.reference else None
    pairs = some_pairs(2, 6)
    batch = collate_for(loss, SHAPE.context)(pairs if loss.paired else split_pairs(pairs))
    outcome = preference_objective(loss, loss.hyperparameters, reference)(policy, batch.to("cuda"))
    exact = twin(policy)
    expected = padded_loss(loss, loss.hyperparameters, exact, reference and twin(reference), pairs)
    assert_close([outcome.loss], [expected], 1e-3)
    assert_close(gradients(policy, outcome.loss), gradients(exact, expected), 5e-3)
    assert all(values.is_cuda for values in outcome.metrics.values())


# --- the loop


def trained(
    device: str, name: str, dtype: str = "float32", how: str = ""
) -> tuple[GPT, list[dict[str, float]]]:
    """A policy after twelve steps of SFT, DPO or KTO, and what was logged of each."""
    policy, reference = gpt(0, device), freeze(gpt(0, device))
    if "compiled" in how:
        compiled.compile_blocks(policy)
        compiled.compile_blocks(reference)
    pairs = some_pairs(3, 48)
    if name == "known":
        pairs, reference = precompute_reference(reference, pairs, dtype, 8), None
    if name == "sft":
        objective, batches = (
            sft_objective,
            [pack([[p.chosen] for p in pairs[i : i + 8]]) for i in range(0, 48, 8)],
        )
    elif name == "kto":
        objective = preference_objective(LOSSES["kto"], {**LOSSES["kto"].hyperparameters}, reference)
        batches = [
            collate_feedback(split_pairs(pairs[i : i + 8]), context=SHAPE.context) for i in range(0, 48, 8)
        ]
    else:
        objective = preference_objective(LOSSES["dpo"], LOSSES["dpo"].hyperparameters, reference)
        batches = [collate_pairs(pairs[i : i + 8]) for i in range(0, 48, 8)]
    config = LoopConfig(steps=12, lr=1e-3, warmup=2, accumulate=2, dtype=dtype)
    optimizer = make_optimizer(policy, config)
    records = [
        train_step(policy, optimizer, objective, [batches[(2 * k) % 6], batches[(2 * k + 1) % 6]], config, k)
        for k in range(12)
    ]
    return policy, fetch(records, name, 12)


@pytest.mark.parametrize("name", ["sft", "dpo", "known", "kto"])
@pytest.mark.parametrize("how", ["", "compiled"])
def test_the_loss_falls_as_on_the_cpu(name, how):
    """The whole curve, with accumulation, clipping, weight decay's groups and the fused optimizer."""
    _, expected = trained("cpu", name)
    _, found = trained("cuda", name, how=how)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3, abs=1e-4) and a["grad_norm"] == pytest.approx(
            b["grad_norm"], rel=2e-2
        )
    assert found[-1]["loss"] < found[0]["loss"]


def test_bfloat16_learns_as_much():
    _, expected = trained("cpu", "dpo")
    policy, found = trained("cuda", "dpo", "bfloat16")
    assert {p.dtype for p in policy.parameters()} == {torch.float32}
    assert found[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=0.1, abs=0.05)


@contextlib.contextmanager
def no_waiting():
    """Inside, whatever makes the CPU wait for the GPU is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", ["sft", "dpo", "known", "kto", "aot"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_never_waits_for_the_gpu(name, dtype):
    """Whatever it looks at (loss, norm, metrics, labels, the mask) stays there. The first steps may wait:
    they compile.
    """
    policy, reference = gpt(0), freeze(gpt(7))
    pairs = some_pairs(4, 40)
    if name == "known":
        pairs, reference = precompute_reference(reference, pairs, dtype, 8), None
    loss = LOSSES[name if name in LOSSES else "dpo"]
    objective = (
        sft_objective
        if name == "sft"
        else preference_objective(loss, loss.hyperparameters, reference, sft_weight=0.1)
    )
    collate_them = {
        "sft": lambda these: pack([[p.chosen] for p in these]),
        "kto": lambda these: collate_feedback(split_pairs(these), context=SHAPE.context),
    }.get(name, collate_pairs)
    batches = [collate_them(pairs[i : i + 4]) for i in range(0, 40, 4)]  # of ten lengths
    config = LoopConfig(steps=10, lr=1e-3, dtype=dtype)
    optimizer = make_optimizer(policy, config)
    records = [
        train_step(policy, optimizer, objective, [batch], config, step) for step, batch in enumerate(batches)
    ]
    torch.cuda.synchronize()
    with no_waiting():
        records += [
            train_step(policy, optimizer, objective, [batch], config, step)
            for step, batch in enumerate(batches)
        ]
    assert all(values["loss"] > 0 for values in fetch(records, name, 20))
    with no_waiting(), pytest.raises(RuntimeError):
        fetch(records, name, 20)  # it is here that one waits, or this test would see nothing


def test_a_bad_step_is_not_taken():
    """The optimizer's kernel itself leaves weights and moments as they are."""
    policy, batch, config = gpt(0), collate_pairs(some_pairs(5, 4)).sequences, LoopConfig(steps=9, lr=1e-2)
    optimizer = make_optimizer(policy, config)
    train_step(policy, optimizer, sft_objective, [batch], config, 0)
    weights, moments = copy.deepcopy(policy.state_dict()), copy.deepcopy(optimizer.state_dict()["state"])

    def spoilt(*given):
        return (outcome := sft_objective(*given))._replace(loss=outcome.loss * torch.nan)

    train_step(policy, optimizer, spoilt, [batch], config, 1)
    assert all(torch.equal(a, b) for a, b in zip(weights.values(), policy.state_dict().values(), strict=True))
    for before, after in zip(moments.values(), optimizer.state_dict()["state"].values(), strict=True):
        assert all(torch.equal(before[name], after[name]) for name in before)


# --- writing, and the command


def test_the_likeliest_tokens_are_the_same():
    """Greedy decoding with the cache. Where two tokens are as likely to seven digits, either may come."""
    prompts = [
        s.ids[:n]
        for n, s in zip((1, 5, 17, 40, 3), [tree[0] for tree in some_trees(6, [(40, 1)] * 5)], strict=True)
    ]
    written = [
        generate(gpt(0, device), prompts, end_of_text=96, max_new_tokens=30, temperature=0)
        for device in ("cuda", "cpu")
    ]
    same = sum(a == b for a, b in zip(*written, strict=True))
    assert same >= 4, written


def test_the_card_is_there_and_works():
    assert pick_device("auto") == "cuda" and trouble_with("cuda") is None
    assert lacks("cuda", "float32") is None and (lacks("cuda", "bfloat16") is None) == (
        torch.cuda.get_device_properties(0).major >= 8 or bool(torch.version.hip)
    )


def test_a_row_that_no_card_holds_is_known_as_used_up_memory():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50, device="cuda")
    assert out_of_memory(refused.value)
    assert torch.ones(2, device="cuda").sum().item() == 2, "and the card goes on working"


def test_a_run_whose_memory_is_used_up_goes_on_afterwards(monkeypatch, capsys, tmp_path):
    """The card's own error out of the middle of preference training: one line; --resume ends as the unbroken
    run does, but for rounding.
    """
    monkeypatch.chdir(tmp_path)
    shape = [
        "--n-layer",
        "1",
        "--n-head",
        "2",
        "--n-embd",
        "64",
        "--context",
        "40",
        "--device",
        "cuda",
        "--save-every",
        "2",
        "--batch-size",
        "4",
    ]
    arguments = ["--data", preference_file(tmp_path / "mine.jsonl"), *shape, *SHORT]
    assert run(monkeypatch, capsys, train_command, *arguments, "--out", "whole")[0] == 0
    steps, step = [], training.train_step

    def full(*given):
        steps.append(given)
        return torch.empty(2**50, device="cuda") if len(steps) == 9 else step(*given)

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_step", full)
        status, _, err = run(patch, capsys, train_command, *arguments, "--out", "full")
    assert (
        status == 1
        and err.count("\n") == 1
        and "out of memory on cuda (OutOfMemoryError: CUDA out of memory" in err
    )
    status, _, err = run(monkeypatch, capsys, train_command, "--resume", "full", "--checkpoint-activations")
    assert (status, err) == (0, "")
    weights, expected = (load_checkpoint(tmp_path / name / "dpo.pt")["model"] for name in ("full", "whole"))
    assert_close([*weights.values()], [*expected.values()], 1e-2)


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--dtype", "bfloat16", "--tokens-per-batch", "200"],
        ["--compile", "--checkpoint-activations", "--precompute-ref"],
    ],
    ids=str,
)
def test_the_command_trains_on_a_gpu(monkeypatch, capsys, tmp_path, flags):
    monkeypatch.chdir(tmp_path)
    shape = ["--n-layer", "1", "--n-head", "2", "--n-embd", "64", "--context", "40", "--device", "cuda"]
    status, out, err = run(
        monkeypatch,
        capsys,
        train_command,
        "--data",
        preference_file(tmp_path / "mine.jsonl"),
        *shape,
        *SHORT,
        *flags,
    )
    assert (status, err) == (0, "") and "parameters on cuda" in out and "talk to it" in out
