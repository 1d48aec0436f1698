"""What a machine may lack: a kernel, a compiler, float64, memory, a GPU that works. Played here by
stand-ins.
"""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn import functional as F

from mini_dpo import devices, model, reference, training
from mini_dpo.batches import Batches, Encoded, collate_pairs, pack
from mini_dpo.corpus.parts import HeldOut
from mini_dpo.devices import autocast, one_line, out_of_memory, pick_device, send, trouble_with
from mini_dpo.errors import UserError
from mini_dpo.evaluation import measuring
from mini_dpo.fast import compiled, flex, trial
from mini_dpo.fast.flex import attention
from mini_dpo.fast.trial import FastWay, disagreement, draw
from mini_dpo.feedback import MixedBatches, collate_for, split_pairs
from mini_dpo.logprobs import response_logps
from mini_dpo.losses import LOSSES
from mini_dpo.objectives import preference_objective, sft_objective
from mini_dpo.optimizers import LoopConfig
from mini_dpo.packing import attend_by_spans, lay_out
from mini_dpo.reference import freeze, precompute_reference
from mini_dpo.saving.checkpoint import load_checkpoint
from mini_dpo.tokenizer import load_tokenizer
from mini_dpo.train import __main__ as train_command
from mini_dpo.train import parsing, running
from mini_dpo.training import train
from tests.commands import SHORT, SMALL, preference_file, run
from tests.strategies import encoded_pairs, tiny_gpt
from tests.test_packing import assert_equal_to_rounding, gradients

SIZES = [(5, 3, 9), (1, 1), (2, 30, 1)]


# --- FlexAttention, on a machine that has it


def dense(q, k, v, block_mask, change=lambda seen: seen):
    """FlexAttention's answer without its kernel: the mask for all pairs of places, and every score."""
    places = torch.arange(q.shape[2])
    seen = change(block_mask.mask_mod(0, 0, places[:, None], places))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def leaking(seen: Tensor) -> Tensor:
    """One token sees one that it must not: the next one, in another block."""
    if len(seen) > 128:
        seen[127, 128] = True
    return seen


def wrong_gradient(q, k, v, block_mask):
    """The right values, and no gradient through the scores."""
    return dense(q.detach() + 0 * q, k.detach() + 0 * k, v, block_mask)


def failing(*args, **kwargs):
    """What torch.compile says where there is no Triton, as on Windows."""
    inner = RuntimeError(
        "Cannot find a working triton installation.\nMore information can be found elsewhere"
    )
    raise torch._dynamo.exc.BackendCompilerFailed(failing, inner, None)


class Flex:
    """A stand-in for the compiled kernel, on a "GPU" that is the CPU; `lengths` of the rows that it was
    given.
    """

    def __init__(self, patch, compute=dense):
        self.compute, self.lengths = compute, []
        patch.setattr(flex, "FLEX_DEVICES", ("cpu",))
        patch.setattr(flex, "FLEX", FastWay("FlexAttention", "by spans"))
        patch.setattr(flex, "compiled_flex_attention", lambda: self)

    def __call__(self, q, k, v, block_mask):
        self.lengths.append(q.shape[2])
        return self.compute(q, k, v, block_mask=block_mask)


def some_qkv(sizes, channels=16, dtype=torch.float32):
    return [draw((2, sum(map(sum, sizes)), channels), 10 + seed).to(dtype) for seed in range(3)]


def test_the_kernel_is_taken_after_one_trial_for_each_kind_of_input(monkeypatch, capsys):
    kernel = Flex(monkeypatch)
    for sizes in (SIZES, [(4, 4)]):
        for channels, dtype in ((16, torch.float32), (16, torch.bfloat16), (8, torch.float32)):
            qkv = some_qkv(sizes, channels, dtype)
            mixed = attention(lay_out(sizes))(*qkv)
            # some machines round products of bfloat16 their own way
            close = {"rtol": 0.05, "atol": 5e-3} if dtype == torch.bfloat16 else {}
            torch.testing.assert_close(mixed, attend_by_spans(*qkv, sizes), **close)
    rows = [length for length in kernel.lengths if length in (52, 8)]
    trials = [length for length in kernel.lengths if length not in (52, 8)]
    assert rows == [52, 52, 52, 8, 8, 8] and len(trials) == 2 * 3, "with and without gradient, for each kind"
    assert min(trials) > 4 * flex.BLOCK and capsys.readouterr().out == ""


WRONG = {
    "leak": (partial(dense, change=leaking), "in a trial its values or gradients were off by 0."),
    "scale": (
        lambda *args, **kwargs: 1.1 * dense(*args, **kwargs),
        "in a trial its values or gradients were off by 0.",
    ),
    "gradient": (wrong_gradient, "in a trial its values or gradients were off by"),
    "nan": (lambda *args, **kwargs: math.nan * dense(*args, **kwargs), "off by nan of their size"),
    "no triton": (failing, "RuntimeError: Cannot find a working triton installation.; by spans"),
}


@pytest.mark.parametrize("compute, why", WRONG.values(), ids=WRONG)
def test_a_kernel_that_is_wrong_or_fails_is_not_taken(monkeypatch, capsys, compute, why):
    """The row is computed by spans, to the bit; one line says why, once."""
    kernel = Flex(monkeypatch, compute)
    for again in range(2):
        qkv = some_qkv(SIZES)
        assert torch.equal(attention(lay_out(SIZES))(*qkv), attend_by_spans(*qkv, SIZES))
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.startswith("FlexAttention is not used: ") and why in out
    assert 52 not in kernel.lengths, "no row of training ever went through it"


def test_what_this_machine_s_own_flexattention_says(monkeypatch, capsys):
    """The real one, which has no backward pass on a CPU: a real failure out of torch.compile, and the reason
    in it.
    """
    monkeypatch.setattr(flex, "FLEX_DEVICES", ("cpu",))
    monkeypatch.setattr(flex, "FLEX", FastWay("FlexAttention", "by spans"))
    qkv = some_qkv(SIZES)
    assert torch.equal(attention(lay_out(SIZES))(*qkv), attend_by_spans(*qkv, SIZES))
    assert "FlexAttention does not support backward on CPU" in capsys.readouterr().out


def test_a_kernel_that_fails_later_is_given_up_then(monkeypatch, capsys):
    """As where it has to be compiled again for a row of another kind."""
    kernel = Flex(
        monkeypatch, lambda q, k, v, block_mask: failing() if q.shape[2] == 8 else dense(q, k, v, block_mask)
    )
    for sizes in (SIZES, [(4, 4)], SIZES, [(4, 4)]):
        qkv = some_qkv(sizes)
        torch.testing.assert_close(attention(lay_out(sizes))(*qkv), attend_by_spans(*qkv, sizes))
    assert [length for length in kernel.lengths if length in (52, 8)] == [52, 8], "not tried again"
    assert capsys.readouterr().out.count("FlexAttention is not used") == 1


def test_used_up_memory_is_no_reason_to_give_up_the_kernel(monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    kernel = Flex(monkeypatch, full)
    with pytest.raises(torch.OutOfMemoryError):
        attention(lay_out(SIZES))(*some_qkv(SIZES))
    assert not flex.FLEX.given_up and kernel.lengths


TREES = [[Encoded([1] * prompt, [2] * n) for n in responses] for prompt, *responses in ((3, 4, 2), (2, 1, 5))]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("compute", [dense, failing], ids=["taken", "given up"])
def test_the_trial_changes_nothing_of_a_step(monkeypatch, dtype, recompute, compute):
    """Inside autocast, in a block that is computed again for the gradient, before anything else: log-probs
    and gradients are those by spans, and dropout's generator stands where it stood.
    """
    policy, found = tiny_gpt(vocab_size=7, n_embd=32).float(), []
    policy.recompute = recompute
    for way in (None, compute):
        if way:
            Flex(monkeypatch, way)
        torch.manual_seed(3)
        with autocast(torch.device("cpu"), dtype):
            logps = response_logps(policy, pack(TREES))
        found.append([logps, *gradients(policy, logps.sum()), torch.rand(1)])
    assert flex.FLEX.given_up == (compute is failing)
    assert_equal_to_rounding(
        *reversed(found), tolerance=1e-12 if compute is failing else 5e-2 if dtype == "bfloat16" else 1e-5
    )


def test_frozen_models_are_tried_with_gradients_too(monkeypatch):
    """The reference is scored first, without gradients: what it finds has to be right for the policy."""
    for compute in (dense, wrong_gradient):
        Flex(monkeypatch, compute)
        with torch.no_grad():
            response_logps(freeze(tiny_gpt()), pack(TREES))
        assert flex.FLEX.given_up == (compute is wrong_gradient)


def test_the_kernel_is_a_whole_one_or_an_error(monkeypatch):
    """Uncompiled, FlexAttention makes all scores of a row at once, and only whispers that it does."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: options)
    assert flex.compiled_flex_attention.__wrapped__() == {"dynamic": True, "fullgraph": True}


def test_the_kernel_is_compiled_for_few_shapes(monkeypatch):
    """Traced as torch.compile would for a GPU: after the trial, rows of other lengths and numbers of trees
    ask for nothing, and rows of a single block once. More than eight, and it would be given up.
    """
    from torch.nn.attention.flex_attention import flex_attention

    graphs = []
    traced = torch.compile(
        flex_attention,
        dynamic=True,
        fullgraph=True,
        backend=lambda graph, inputs: graphs.append(graph) or graph.forward,
    )
    torch.compiler.reset()
    # which refuses gradients on a CPU
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_validate_device", lambda *args: None)
    Flex(monkeypatch, traced)
    counts = []
    for sizes in (
        [(90, 50)],
        [(100, 200, 30), (2, 2), (40, 3, 3, 3)],
        [(300, 300), (1, 1)],
        [(4, 4)],
        [(5, 3, 9), (1, 1)],
    ):
        with torch.no_grad():
            qkv = some_qkv(sizes)
            torch.testing.assert_close(attention(lay_out(sizes))(*qkv), attend_by_spans(*qkv, sizes))
        counts.append(len(graphs))
    assert not flex.FLEX.given_up and counts == [2, 2, 2, 3, 3], "two in the trial: with and without gradient"


# --- torch.compile


def compiled_by(monkeypatch, change):
    """Compiled halves of a block as they should be, but for `change`, which gets the half and returns
    another.
    """
    monkeypatch.setattr(compiled, "COMPILE", FastWay("--compile", "going on without it"))
    monkeypatch.setattr(compiled, "compiled", change)


def traced(half):
    return torch.compile(half, dynamic=True, backend="aot_eager")


def test_compiled_halves_are_taken_after_a_trial(monkeypatch, capsys):
    """Compiled indeed, but for the last translation, and in a block that is computed again for the gradient,
    out of which torch's checkpoint throws an exception of its own when it has enough.
    """
    torch.compiler.reset()
    compiled_by(monkeypatch, traced)
    found = []
    for fast in (False, True):
        policy = tiny_gpt(n_embd=16).float().train()
        policy.recompute = True
        if fast:
            compiled.compile_blocks(policy)
        logps = response_logps(policy, pack(TREES))
        found.append([logps, *gradients(policy, logps.sum())])
    assert (
        not compiled.COMPILE.given_up and len(compiled.COMPILE.passed) == 2 and capsys.readouterr().out == ""
    )
    assert_equal_to_rounding(*reversed(found), tolerance=1e-5)


def spoilt(which):
    """One of the two halves is off by a hundredth."""
    return lambda half: (
        (lambda block, *x: compiled.after_attention(block, *x) * 1.01) if half is which else half
    )


BROKEN = {
    "wrong": (spoilt(compiled.after_attention), "in a trial its values or gradients were off by 0.0"),
    "failing": (lambda half: failing, "Cannot find a working triton installation."),
    "no compiler at all": (lambda half: failing(), "Cannot find a working triton installation."),
    "no gradient by a bias": (
        lambda half: (
            lambda block, *x: (
                half(block, *x)
                if half is compiled.before_attention
                else block.drop(F.linear(x[1], block.attn.c_proj.weight, block.attn.c_proj.bias.detach()))
                + x[0]
                + block.drop(block.mlp(block.ln_2(x[0] + block.attn.c_proj(x[1]))))
            )
        ),
        "off by",
    ),
}


@pytest.mark.parametrize("change, why", BROKEN.values(), ids=BROKEN)
def test_compiled_halves_that_are_wrong_or_fail_are_not_taken(monkeypatch, capsys, change, why):
    """Each block is computed as it is written, to the bit, and one line says why."""
    compiled_by(monkeypatch, change)
    found = []
    for fast in (False, True):
        policy = tiny_gpt(dropout=0.2).float().train()
        if fast:
            compiled.compile_blocks(policy)
        for again in range(2):
            torch.manual_seed(0)
            logps = response_logps(policy, pack(TREES))
            found.append([logps, *gradients(policy, logps.sum())])
    assert all(torch.equal(a, b) for a, b in zip(found[0] + found[1], found[2] + found[3], strict=True))
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.startswith("--compile is not used: ") and why in out


def test_halves_are_tried_in_the_precision_of_the_run(monkeypatch):
    """float32 outside, bfloat16 within: each is a kind of its own, held to its own precision."""
    compiled_by(monkeypatch, lambda half: half)
    policy = tiny_gpt().float()
    compiled.compile_blocks(policy)
    for dtype in ("float32", "bfloat16"):
        with autocast(torch.device("cpu"), dtype):
            response_logps(policy, pack(TREES))
    assert compiled.COMPILE.passed == {
        (n, 8, dtype) for n in (1, 2) for dtype in (torch.float32, torch.bfloat16)
    }


def test_tf32_is_granted_its_ten_bits_where_it_is_on():
    before = torch.get_float32_matmul_precision()
    try:
        for precision, allowed in (("highest", trial.tolerance(torch.float32, "cpu")), ("high", 1e-2)):
            torch.set_float32_matmul_precision(precision)
            assert trial.tolerance(torch.float32, "cuda") == allowed
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_command_goes_on_without_a_compiler(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    compiled_by(monkeypatch, lambda half: failing)
    status, out, err = run(
        monkeypatch,
        capsys,
        train_command,
        "--data",
        preference_file(tmp_path / "mine.jsonl"),
        *SMALL,
        *SHORT,
        "--compile",
        "--device",
        "cpu",
    )
    assert (status, err) == (0, "") and out.count("--compile is not used: ") == 1 and "talk to it" in out


def test_a_disagreement_is_that_of_the_worst_row():
    """Relative to the row and the tensor's mean row; in a parameter's gradient as in a value."""
    x, weight = draw((50, 4), 0), torch.ones(4, requires_grad=True)
    plain = lambda z: z * weight  # noqa: E731
    assert disagreement(plain, plain, [x], [weight]) == 0
    one_row = lambda z: torch.cat([1.5 * plain(z[:1]), plain(z[1:])])  # noqa: E731
    assert 0.05 < disagreement(one_row, plain, [x], [weight]) < 0.5
    assert disagreement(lambda z: z * weight.detach() + 0 * weight, plain, [x], [weight]) == pytest.approx(
        0.5
    )
    assert math.isnan(
        disagreement(lambda z: torch.where(z == z[3, 1], torch.nan, plain(z)), plain, [x], [weight])
    )


# --- a device without float64, as Apple's


class Elsewhere(torch.Tensor):
    """A tensor on a device that has no float64. Whatever is computed with one is one; `cpu`, `tolist`, `item`
    fetch it.
    """

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        result = super().__torch_function__(function, types, args, kwargs or {})
        if function is torch.Tensor.cpu:
            return result.as_subclass(torch.Tensor)
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, cls) and value.dtype == torch.float64:
                raise TypeError(
                    "Cannot convert a MPS Tensor to float64 dtype as the MPS framework "
                    "doesn't support float64. Please use float32 instead."
                )
        return result


def elsewhere(gpt):
    """A model moved there."""
    gpt = gpt.float()
    for module in gpt.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(
                module,
                name,
                torch.nn.Parameter(parameter.detach().as_subclass(Elsewhere), parameter.requires_grad),
            )
    return gpt


def test_the_stand_in_refuses_float64():
    gpt = elsewhere(tiny_gpt())
    with pytest.raises(TypeError, match="float64"):
        gpt(torch.tensor([[1, 2]])).double()
    assert gpt(torch.tensor([[1, 2]])).cpu().double().dtype == torch.float64


@pytest.mark.parametrize("loss", [None, *LOSSES.values()], ids=["sft", *LOSSES])
def test_no_float64_in_the_loop(loss):
    """Steps, what is logged of them, and the look at validation data, of every objective; with a live
    reference and with one that is scored ahead.
    """
    pairs = [measuring.EncodedPair(*TREES[i % 2]) for i in range(4)]
    for known in (False, True) if loss and loss.reference and not loss.mismatched else (False,):
        policy, reference = elsewhere(tiny_gpt(0)), elsewhere(tiny_gpt(1)).requires_grad_(False)
        examples = [p.chosen for p in pairs] if loss is None else pairs if loss.paired else split_pairs(pairs)
        if known:
            examples, reference = precompute_reference(reference, examples, "float32", 2), None
        kind = MixedBatches if loss and loss.mismatched else Batches
        batches = kind(
            examples,
            (lambda these: pack([[s] for s in these])) if loss is None else collate_for(loss, 12),
            2,
            seed=0,
        )
        objective = (
            sft_objective
            if loss is None
            else preference_objective(
                loss, loss.hyperparameters, reference if loss.reference else None, sft_weight=0.1
            )
        )
        train(policy, objective, batches, LoopConfig(steps=2, lr=1e-3, eval_every=1), valid=batches)
        assert isinstance(policy.wte.weight, Elsewhere)


def test_no_float64_in_the_measuring():
    """Answers, KL divergence, perplexity and accuracy."""
    tokenizer = load_tokenizer("toy")
    shape = dict(vocab_size=tokenizer.vocab_size, context=30)
    sft, policy = (elsewhere(tiny_gpt(seed, **shape)) for seed in (0, 1))
    pairs = [measuring.EncodedPair(*tree) for tree in TREES]
    summary, _ = measuring.evaluate(
        sft,
        policy,
        LOSSES["dpo"],
        {"beta": 0.1},
        tokenizer,
        HeldOut(["x", "y"], [pair.chosen for pair in pairs], [], pairs, None),
        0,
        measuring.How(),
    )
    assert math.isfinite(summary["dpo"]["kl"])


@given(encoded_pairs())
def test_what_is_logged_is_to_the_bit_what_was_computed(pairs):
    """A float32 is the same number as it is fetched."""
    policy = tiny_gpt().float()
    outcome = sft_objective(policy, collate_pairs(pairs).sequences)
    record = {
        "loss": outcome.loss.detach(),
        "grad_norm": torch.tensor(1.0),
        "liked": torch.tensor(torch.nan),
        "taken": torch.tensor(True),
    }
    (settled,) = training.fetch([record], "sft", 1)
    assert settled == {"loss": outcome.loss.item(), "grad_norm": 1.0}


def test_only_a_cuda_device_is_copied_to_without_waiting():
    """On Apple's GPUs such a copy may read memory that has become another tensor's."""

    class Spy:
        device = torch.device("cpu")

        def pin_memory(self):
            return self

        def to(self, device, non_blocking=False):
            return device, non_blocking

    assert (
        send(Spy(), "mps") == ("mps", False)
        and send(Spy(), "cpu") == ("cpu", False)
        and send(Spy(), "cuda") == ("cuda", True)
    )


# --- out of memory

FULL = {
    "cuda": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB\nand more"
    ),
    "mps": RuntimeError(
        "MPS backend out of memory (MPS allocated: 8.61 GiB, other allocations: 416.00 KiB, "
        "max allowed: 9.07 GiB)."
    ),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
        "memory: you tried to allocate 4000000000000 bytes."
    ),
    "python": MemoryError(),
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder with data and a run that had memory enough."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        preference_file(folder / "mine.jsonl")
        patch.setattr("sys.argv", ["train", *ARGUMENTS, "--out", "whole"])
        train_command.main()
    return folder


ARGUMENTS = ["--data", "mine.jsonl", *SMALL, *SHORT, "--device", "cpu"]
PLACES = {  # (module, function, at which call memory is used up)
    "in SFT": (training, "train_step", 4),
    "in preference training": (training, "train_step", 9),
    "validation": (training, "score", 2),
    "reference scoring": (reference, "score_reference", 1),
    "answers": (measuring, "generate", 1),
    "measuring": (measuring, "score_batches", 1),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", FULL)
def test_used_up_memory_is_one_line_and_loses_nothing(monkeypatch, capsys, unbroken, place, kind):
    """Wherever it happens; and the run that is gone on with, in less memory, ends with the weights of the
    unbroken one.
    """
    monkeypatch.chdir(unbroken)
    name = f"{place}-{kind}".replace(" ", "-")
    module, function, when = PLACES[place]
    work, calls = getattr(module, function), []

    def fills(*args, **kwargs):
        calls.append(args)
        if len(calls) == when:
            raise FULL[kind]
        return work(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, function, fills)
        status, _, err = run(patch, capsys, train_command, *ARGUMENTS, "--out", name)
    assert (
        status == 1
        and err.count("\n") == 1
        and err.startswith(f"error: out of memory on cpu ({type(FULL[kind]).__name__}")
    ), err
    assert (
        f"--resume {name} --checkpoint-activations" in err
        and "a smaller --batch-size than 4" in err
        and "--context" in err
    )
    again, checkpoint = [], model.checkpoint
    monkeypatch.setattr(
        model, "checkpoint", lambda *args, **options: again.append(args) or checkpoint(*args, **options)
    )
    status, _out, err = run(monkeypatch, capsys, train_command, "--resume", name, "--checkpoint-activations")
    assert (status, err) == (0, ""), err
    assert again or place in ("answers", "measuring"), (
        "what is left of the training is computed again block by block"
    )
    for stage in ("sft.pt", "dpo.pt"):
        weights, expected = (
            load_checkpoint(unbroken / folder / stage)["model"] for folder in (name, "whole")
        )
        assert all(torch.equal(weights[key], expected[key]) for key in expected), stage


def test_the_line_names_the_flag_that_was_given(monkeypatch, capsys, unbroken):
    """And does not propose what is done already."""
    monkeypatch.chdir(unbroken)
    monkeypatch.setattr(training, "train_step", lambda *args: (_ for _ in ()).throw(FULL["cuda"]))
    arguments = [
        "--data",
        "mine.jsonl",
        "--n-layer",
        1,
        "--n-head",
        2,
        "--n-embd",
        16,
        "--context",
        40,
        "--tokens-per-batch",
        99,
        "--checkpoint-activations",
        "--device",
        "cpu",
        "--out",
        "tokens",
    ]
    status, _, err = run(monkeypatch, capsys, train_command, *arguments)
    assert (
        status == 1
        and "go on with --resume tokens when there is more, or start again with a smaller "
        "--tokens-per-batch than 99, or"
        in err
    )


def test_used_up_memory_ends_other_commands_in_one_line_too(monkeypatch, capsys, unbroken):
    """And what only sounds like it keeps its traceback."""
    monkeypatch.chdir(unbroken)
    monkeypatch.setattr(running, "prepare", lambda settings: (_ for _ in ()).throw(FULL["cpu"]))
    status, _, err = run(monkeypatch, capsys, train_command, *ARGUMENTS, "--out", "none")
    assert status == 1 and err.count("\n") == 1 and "error: out of memory (RuntimeError: [enforce fail" in err
    monkeypatch.setattr(
        running, "prepare", lambda settings: (_ for _ in ()).throw(RuntimeError("shapes do not fit"))
    )
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run(monkeypatch, capsys, train_command, *ARGUMENTS, "--out", "none")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory"),
        KeyError("out of memory"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    ],
    ids=str,
)
def test_other_errors_are_not_taken_for_used_up_memory(error):
    assert not out_of_memory(error)


def test_a_real_allocator_s_error_is_known():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    assert out_of_memory(refused.value)


# --- which device


def a_gpu(monkeypatch, error=None, gpus=1):
    """A machine with GPUs. The first thing asked of one raises `error`, or is done (by the CPU)."""
    ones = torch.ones

    def on_gpu(*shape, device="cpu", **options):
        if error and str(device).startswith("cuda"):
            raise error
        return ones(*shape, **options)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch, "ones", on_gpu)


BUSY = RuntimeError(
    "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors might be reported later"
)


def test_auto_takes_a_gpu_that_works_and_says_so_of_one_that_does_not(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == "cpu" and capsys.readouterr().out == "", "nobody misses what is not there"
    a_gpu(monkeypatch)
    assert pick_device("auto") == "cuda" and capsys.readouterr().out == ""
    a_gpu(monkeypatch, BUSY)
    assert pick_device("auto") == "cpu"
    line = (
        "no GPU is used: there is one, and it does not work (RuntimeError: CUDA error: all "
        "CUDA-capable devices are busy or unavailable); going on with the CPU\n"
    )
    assert capsys.readouterr().out == line


def test_the_command_goes_on_without_a_broken_gpu_unless_it_was_asked_for(monkeypatch, capsys, unbroken):
    monkeypatch.chdir(unbroken)
    a_gpu(monkeypatch, BUSY)
    assert (
        "parameters on cpu"
        in (out := run(monkeypatch, capsys, train_command, *ARGUMENTS[:-2], "--out", "auto")[1])
        and out.count("no GPU is used") == 1
    )
    status, _, err = run(monkeypatch, capsys, train_command, *ARGUMENTS[:-1], "cuda")
    assert (
        status == 2
        and err.startswith(
            "error: --device cuda: there is one, and it does not work (RuntimeError: CUDA error: all"
        )
        and err.endswith("; use --device cpu\n")
    )


def test_each_process_needs_a_gpu_of_its_own(monkeypatch):
    a_gpu(monkeypatch, gpus=2)
    for processes, trouble in (("2", None), ("3", "3 processes need 3 GPUs, and this machine has 2")):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert trouble_with("cuda") == trouble
    assert trouble_with("cpu") is None


def test_each_process_takes_its_own_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    devices.own_gpu("cuda")
    monkeypatch.setenv("LOCAL_RANK", "1")
    devices.own_gpu("cpu")
    assert taken == [], "alone, or on the CPU, nobody takes one"
    devices.own_gpu("cuda")
    assert taken == [1]


def test_a_device_that_imitates_bfloat16_is_said_to(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    for has, expected in ((True, None), (False, "Tesla T4 has no bfloat16 of its own")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
        assert devices.lacks("cuda", "float32") is None and devices.lacks("cpu", "bfloat16") is None
        assert (devices.lacks("cuda", "bfloat16") or "").startswith(expected or "")
        assert (devices.lacks("cuda", "bfloat16") is None) == has


def test_the_resumed_run_may_only_need_less_memory(capsys):
    assert parsing.parse(["--resume", "runs/1", "--checkpoint-activations"]).checkpoint_activations
    with pytest.raises(UserError, match="leave out --batch-size, or start"):
        parsing.parse(["--resume", "runs/1", "--checkpoint-activations", "--batch-size", "2"])


def test_one_line_of_an_error_is_its_first():
    assert (
        one_line(ValueError("\n  first\nsecond")) == "ValueError: first"
        and one_line(MemoryError()) == "MemoryError"
    )
