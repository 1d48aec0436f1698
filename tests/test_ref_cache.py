"""Kept reference log-probs: found again by whoever needs just these, and by nobody else."""

import os

import pytest
import torch

from mini_dpo import reference as reference_module
from mini_dpo.batches import Batches, Encoded, collate_pairs
from mini_dpo.errors import UserError
from mini_dpo.feedback import collate_feedback, split_pairs
from mini_dpo.losses import LOSSES
from mini_dpo.objectives import pair_logps, preference_objective
from mini_dpo.optimizers import LoopConfig
from mini_dpo.reference import freeze, precompute_reference
from mini_dpo.saving import reference_cache as reference_file
from mini_dpo.saving.reference_cache import cached_reference, hash_all, sha256_of
from mini_dpo.training import train
from tests.strategies import tiny_gpt
from tests.test_training import some_pairs


def reference(seed=0):
    return freeze(tiny_gpt(seed).float())


def cached(folder, model=None, examples=None, tokenizer="toy", dtype="float32", batch_size=4, **how):
    """(the examples with their log-probs, what was said, the files that are there)."""
    said = []
    found = cached_reference(
        model or reference(),
        examples or some_pairs(),
        folder / "mine.jsonl",
        tokenizer,
        dtype,
        batch_size,
        say=said.append,
        **how,
    )
    return found, said, sorted(folder.glob("mine.jsonl.ref-*.pt"))


@pytest.fixture
def runs(monkeypatch):
    """How often the reference has scored a batch."""
    calls, score_reference = [], reference_module.score_reference
    monkeypatch.setattr(
        reference_module, "score_reference", lambda *args: calls.append(args) or score_reference(*args)
    )
    return calls


@pytest.mark.parametrize(
    "examples", [some_pairs(), split_pairs(some_pairs())], ids=["pairs", "single responses"]
)
def test_the_second_run_reads_what_the_first_has_scored(tmp_path, runs, examples):
    """To the bit, whatever its batches are, and asking the reference again about eight examples only."""
    first, said, (path,) = cached(tmp_path, examples=examples)
    assert (
        first == precompute_reference(reference(), examples, "float32", 4) and said[-1] == f"kept in {path}"
    )
    before, content = len(runs), path.read_bytes()
    again, said, paths = cached(tmp_path, examples=examples, batch_size=None, tokens=40)
    assert (
        again == first
        and len(runs) <= before + 8 < before + len(examples)
        and paths == [path]
        and path.read_bytes() == content
    )
    assert said == [f"reference log-probs from {path}"]
    assert [e.sequence if hasattr(e, "sequence") else e.chosen for e in again] == [
        e.sequence if hasattr(e, "sequence") else e.chosen for e in examples
    ]


def test_whatever_the_numbers_depend_on_has_another_file(tmp_path):
    """And each file keeps its own numbers: nobody is given another one's."""
    pairs = some_pairs()
    other_weight = reference()
    with torch.no_grad():
        other_weight.h[1].mlp.c_proj.bias[3] += 1e-6  # a single number, by a little
    other_response = [
        pairs[0]._replace(
            rejected=pairs[0].rejected._replace(
                response=[*pairs[0].rejected.response[:-1], (pairs[0].rejected.response[-1] + 1) % 5]
            )
        ),
        *pairs[1:],
    ]
    swapped = [pairs[0]._replace(chosen=pairs[0].rejected, rejected=pairs[0].chosen), *pairs[1:]]
    heads = freeze(tiny_gpt(n_head=4).float())  # another model with the same weights
    changes = [
        {},
        {"model": other_weight},
        {"model": heads},
        {"examples": other_response},
        {"examples": swapped},
        {"examples": pairs[::-1]},
        {"examples": pairs[:-1]},
        {"tokenizer": "gpt2"},
        {"dtype": "bfloat16"},
    ]
    for n, change in enumerate(changes, 1):
        found, _, paths = cached(tmp_path, **change)
        assert len(paths) == n, change
        model, examples = change.get("model", reference()), change.get("examples", pairs)
        assert found == precompute_reference(model, examples, change.get("dtype", "float32"), 4), change


def test_where_prompt_and_response_meet_counts():
    """The same tokens with another boundary are another response."""
    pair = some_pairs()[1]
    ids, start = pair.chosen.ids, len(pair.chosen.prompt) - 1
    moved = pair._replace(chosen=Encoded(ids[:start], ids[start:]))
    assert hash_all(reference(), [pair], "toy", "float32") != hash_all(reference(), [moved], "toy", "float32")


def foreign(path):
    torch.save({"digest": "somebody else's", "logps": torch.zeros(12, 2)}, path)


def of_another_length(path):
    kept = torch.load(path)
    torch.save({**kept, "logps": kept["logps"][:-1]}, path)


def not_finite(path):
    kept = torch.load(path)
    torch.save({**kept, "logps": kept["logps"] * torch.nan}, path)


def tampered(change):
    """Numbers that were changed, and their checksum with them."""

    def damage(path):
        kept = torch.load(path)
        logps = change(kept["logps"])
        torch.save({**kept, "logps": logps, "sha256": sha256_of(logps)}, path)

    return damage


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a byte flipped": lambda path: path.write_bytes(
        bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]
    ),
    "empty": lambda path: path.write_bytes(b""),
    "a list": lambda path: torch.save([1, 2], path),
    "foreign": foreign,
    "of another length": of_another_length,
    "not finite": not_finite,
    "numbers without their checksum": lambda path: torch.save(
        {**(kept := torch.load(path)), "logps": kept["logps"] * 1.0001}, path
    ),
    "times three": tampered(lambda logps: 3 * logps),
    "chosen and rejected exchanged": tampered(lambda logps: logps.flip(1)),
    "positive": tampered(lambda logps: -logps),
    "in another type": tampered(lambda logps: logps.double()),
    "in another shape": tampered(lambda logps: logps.flatten()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_made_again(tmp_path, runs, damage):
    first, _, (path,) = cached(tmp_path)
    damage(path)
    before = len(runs)
    again, said, paths = cached(tmp_path)
    assert again == first and len(runs) > before and said[-1] == f"kept in {path}" and paths == [path]
    assert cached(tmp_path)[1] == [f"reference log-probs from {path}"]


def test_a_folder_that_cannot_be_written_is_said_and_no_reason_to_stop(tmp_path, monkeypatch):
    """As for data on a read-only disk, and for a disk that is full."""

    def refuse(path, write):
        raise UserError(f"{path}: cannot be written")

    expected, _, (path,) = cached(tmp_path)
    path.unlink()
    monkeypatch.setattr(reference_file, "write_whole", refuse)
    found, said, paths = cached(tmp_path)
    assert (
        found == expected
        and not paths
        and said[-1].startswith("not kept for the next run: ")
        and "cannot be written" in said[-1]
    )
    monkeypatch.undo()
    found, said, paths = cached(tmp_path / "gone")  # for the system itself to refuse it
    assert found == expected and not paths and "not kept" in said[-1] and not os.listdir(tmp_path)


@pytest.mark.parametrize("loss", ["dpo", "apo_zero_unpaired"])
def test_training_is_that_with_the_reference_in_every_step(tmp_path, loss):
    paired = LOSSES[loss].paired
    examples = some_pairs() if paired else split_pairs(some_pairs())
    cached(tmp_path, examples=examples)
    kept, said, _ = cached(tmp_path, examples=examples)
    assert said[0].startswith("reference log-probs from ")
    trained = []
    for these, live in ((examples, reference()), (kept, None)):
        policy = reference().requires_grad_(True)
        objective = preference_objective(LOSSES[loss], LOSSES[loss].hyperparameters, live)
        train(
            policy,
            objective,
            Batches(these, collate_pairs if paired else collate_feedback, 4, seed=0),
            LoopConfig(steps=8, lr=1e-3),
        )
        with torch.no_grad():
            trained.append(pair_logps(policy, None, collate_pairs(some_pairs())).chosen.policy)
    # not weights: Adam makes full steps of gradients that are zero but for rounding
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)
