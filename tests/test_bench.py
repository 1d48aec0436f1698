"""The benchmark: what it counts, what it compares, and that it runs. No speed is asserted: machines are
shared.
"""

import importlib.util
import json

import pytest
import torch

from mini_dpo.batches import collate_pairs
from mini_dpo.bench import __main__ as bench
from mini_dpo.bench import rows, steps, tables
from mini_dpo.bench.growth import slope
from mini_dpo.bench.rows import RUNGS
from mini_dpo.bench.steps import collate_padded, logps_at_responses, logps_of_everything
from mini_dpo.bench.tables import ladder_report
from mini_dpo.bench.workload import SHAPES, BenchSettings, count_tokens, floor_flops, make_pairs
from mini_dpo.errors import UserError
from mini_dpo.logprobs import response_logps
from mini_dpo.model import GPT
from tests.commands import run

SMALL = BenchSettings(device="cpu", batch_size=3, batches=2, repeats=1)


def test_all_rungs_compute_the_same_log_probs():
    """A ladder whose rungs differ in what they compute measures nothing."""
    torch.manual_seed(0)
    model = GPT(SHAPES["toy"]).double()
    pairs = make_pairs(SMALL)[0]
    padded = collate_padded(pairs)
    with torch.no_grad():
        # chosen, rejected, chosen, ...
        expected = torch.stack(logps_of_everything(model, padded.ids, padded.mask).chunk(2), 1).flatten()
        assert torch.allclose(
            torch.stack(logps_at_responses(model, padded.ids, padded.mask).chunk(2), 1).flatten(),
            expected,
            rtol=1e-12,
            atol=0,
        )
        for name in ("packed", "shared"):
            assert torch.allclose(
                response_logps(model, RUNGS[name].collate(pairs).sequences), expected, rtol=1e-12, atol=0
            )


def test_tokens_are_those_of_the_batches_and_the_floor_is_six_operations_each():
    batches = make_pairs(SMALL)
    tokens, pairs = count_tokens(batches), sum(batches, [])
    for kind, collate_them in (("packed", collate_pairs), ("sequences", steps.collate_apart)):
        assert tokens[kind] == sum(collate_them(batch).n_tokens for batch in batches) / len(pairs)
    assert tokens["padded"] == sum(collate_padded(batch).ids.numel() for batch in batches) / len(pairs)
    assert tokens["responses"] == sum(collate_pairs(batch).sequences.n_targets for batch in batches) / len(
        pairs
    )
    model, config = GPT(SHAPES["toy"]), SHAPES["toy"]
    body = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and name.startswith("h."))
    assert floor_flops(config, tokens) == 6 * (
        body * tokens["packed"] + model.wte.weight.numel() * tokens["responses"]
    )


def test_one_seed_makes_the_same_batches():
    assert make_pairs(SMALL) == make_pairs(SMALL)
    assert make_pairs(SMALL) != make_pairs(BenchSettings(batch_size=3, batches=2, seed=1))


def test_exponents():
    assert slope([0.0, 1.0, 2.0], [5.0, 7.0, 9.0]) == pytest.approx(2)


def test_the_command_measures_and_keeps_what_it_prints(tmp_path, monkeypatch, capsys):
    """Two rungs are enough here, without a process for each."""
    monkeypatch.setattr(tables, "RUNGS", {name: RUNGS[name] for name in ("responses", "shared")})
    monkeypatch.setattr(tables, "run_row", lambda settings, name: bench.MEASUREMENTS[name](settings))
    monkeypatch.setattr(rows, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    path = tmp_path / "bench.json"
    status, out, err = run(
        monkeypatch,
        capsys,
        bench,
        "--batch-size",
        1,
        "--batches",
        1,
        "--repeats",
        1,
        "--device",
        "cpu",
        "--json",
        path,
    )
    assert status == 0, err
    results = json.loads(path.read_text())
    assert ladder_report(results) in out and "TRL is not installed" in out
    for row in results["rows"].values():
        assert row["slowest_round"] <= row["pairs_per_second"] * 1.000001 <= row["fastest_round"] * 1.00001
        assert row["megabytes"] >= 0


def test_a_row_is_a_process_of_its_own_and_says_why_it_failed():
    row = tables.run_row(SMALL, "precomputed")
    assert row["pairs_per_second"] > 0 and row["megabytes"] >= 0
    with pytest.raises(UserError, match="the row no-such-row failed"):
        tables.run_row(SMALL, "no-such-row")


@pytest.mark.parametrize(
    "flags, words",
    [(["--repeats", 0], "--repeats must be at least 1"), (["--batch-size", -1], "--batch-size must be")],
)
def test_bad_flags_are_refused(monkeypatch, capsys, flags, words):
    status, _, err = run(monkeypatch, capsys, bench, *flags)
    assert status == 2 and words in err
