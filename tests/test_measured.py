"""Numbers that take hours are kept in tutorials/measured/, and the pages agree with them."""

import re
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from mini_dpo.errors import TrainingFailed, UserError
from mini_dpo.files import read_json, write_json
from mini_dpo.worlds.finding import find_world
from tests.commands import run
from tests.pages import closing_rows_of, disagreements, unknown_spreads
from tutorials import kept as numbers
from tutorials import measure
from tutorials.chapters import HERE, ROOT, chapter_paths
from tutorials.kept import complete, paired, spreads
from tutorials.measure import MEASUREMENTS
from tutorials.worlds import GUARDS, WORLDS, refusals, worlds_table

PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in [
        ROOT / "README.md",
        HERE / "README.md",
        HERE / "measured" / "README.md",
        *chapter_paths().values(),
    ]
}


@pytest.mark.parametrize("name", PAGES)
def test_a_mean_and_its_spread_on_a_page_are_kept_or_printed_there(name):
    assert not unknown_spreads(PAGES[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", PAGES)
def test_the_table_of_one_run_agrees_with_the_runs_of_other_seeds(name):
    """A closing table on any page, with the command of a measurement above it, is within six standard
    deviations of the mean over seeds.
    """
    assert not list(disagreements(PAGES[name].read_text(encoding="utf-8")))


def test_the_pages_show_tables_of_runs():
    shown = [name for name, path in PAGES.items() if list(closing_rows_of(path.read_text(encoding="utf-8")))]
    assert "tutorials/measured/README.md" in shown and len(shown) >= 3


def test_tables_that_are_shown_are_the_kept_ones():
    """Chapters print their tables, and what chapters print is compared elsewhere. This page is not run."""
    page = (HERE / "measured" / "README.md").read_text(encoding="utf-8")
    for name, shown in re.findall(
        r"`python -m tutorials\.measure (\w+) --show`.*?```\n(.*?)\n```", page, re.S
    ):
        assert shown == measure.table(name)


def test_the_readme_s_rows_are_the_kept_ones():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = [block for block in page.split("```") if "true reward   " in block]
    assert "python -m tutorials.measure main --show" in page
    assert set(shown.strip().splitlines()) <= set(measure.table("main").splitlines())


# --- what these tests would find

ONE_RUN = """```sh
python -m mini_dpo.train --out runs/1
```

```text about
on held-out prompts (256)                          SFT                 DPO
true reward                                       {sft} (0.25)         {dpo} (0.14)
```
"""


def test_a_number_that_another_machine_would_not_find_is_found():
    kept = spreads("main")
    for model, key in (("sft", "sft/reward"), ("dpo", "dpo/reward")):
        mean, spread = kept[key]
        right = {"sft": kept["sft/reward"][0], "dpo": kept["dpo/reward"][0]}
        assert not list(disagreements(ONE_RUN.format(**{m: f"{x:.2f}" for m, x in right.items()})))
        wrong = {**right, model: mean - 7 * spread}
        (problem,) = disagreements(ONE_RUN.format(**{m: f"{x:.2f}" for m, x in wrong.items()}))
        assert problem.startswith("true reward") and f"{wrong[model]:.2f}" in problem


def test_a_spread_that_nobody_measured_is_found():
    mean, spread = spreads("main")["dpo/reward"]
    good = f"It earns {mean:.2f} ± {spread:.2f}."
    assert not unknown_spreads(good)
    assert unknown_spreads(f"It earns {mean + 0.01:.2f} ± {spread:.2f}.") == [
        f"{mean + 0.01:.2f} ± {spread:.2f}"
    ]
    assert unknown_spreads("It earns 1.23 ± 0.45.")
    assert not unknown_spreads("```text\n1.23 ± 0.45\n```\n\nIt earns 1.23 ± 0.45.")


# --- the command


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """An empty folder to keep numbers in, and a measurement that trains nothing."""
    monkeypatch.setattr(numbers, "KEPT", tmp_path)
    made = []

    def how(flags, name, variant, seed):
        made.append((variant, seed))
        return {"prompts": 4, "sft/reward": 1.0, "dpo/reward": float(seed), "dpo/kl": 2.0}

    monkeypatch.setitem(MEASUREMENTS, "short", replace(MEASUREMENTS["short"], how=how))
    return made


def seeds(monkeypatch, n):
    for module in (measure, numbers):
        monkeypatch.setattr(module, "SEEDS", range(n))


def test_what_is_missing_is_measured_and_nothing_twice(kept, monkeypatch, capsys, tmp_path):
    seeds(monkeypatch, 2)
    status, out, _ = run(monkeypatch, capsys, measure, "short")
    assert status == 0 and kept == [("dpo", 0), ("dpo", 1)] and "1 of 2" in out
    seeds(monkeypatch, 3)
    assert run(monkeypatch, capsys, measure, "short")[0] == 0
    assert kept[2:] == [("dpo", 2)]
    assert set(read_json(tmp_path / "short.json")["parts"]) == {f"dpo, seed {seed}" for seed in range(3)}
    assert spreads("short")["dpo/reward"] == (1.0, 1.0)
    status, out, _ = run(monkeypatch, capsys, measure, "short", "--show")
    assert status == 0 and re.search(r"true reward +1.00 ± 0.00 +1.00 ± 1.00\n", out)
    status, out, _ = run(monkeypatch, capsys, measure, "--list")
    assert status == 0 and "short      3 of   3 parts kept" in out and "main       0 of   3" in out


def test_a_run_that_fails_does_not_stop_the_others(kept, monkeypatch, capsys, tmp_path):
    def how(flags, name, variant, seed):
        if seed == 1:
            raise TrainingFailed("step 3: the loss is not finite")
        return {"reward": 1.0}

    monkeypatch.setitem(MEASUREMENTS, "short", replace(MEASUREMENTS["short"], how=how))
    status, out, _ = run(monkeypatch, capsys, measure, "short")
    assert status == 0 and "dpo, seed 1: not kept (step 3: the loss is not finite)" in out
    assert len(read_json(tmp_path / "short.json")["parts"]) == len(numbers.SEEDS) - 1
    assert complete("short", ["dpo"]) == []


def test_the_numbers_of_a_run_are_those_of_its_closing_table(tmp_path):
    of = {"reward": 9.0, "reward_error": 0.1, "kl": None, "training_seconds": 9.0}
    write_json(tmp_path / "summary.json", {"prompts": 4, "sft": {"reward": 1.0}, "dpo": of, "labels": {}})
    assert measure.closing_numbers(tmp_path) == {"prompts": 4, "sft/reward": 1.0, "dpo/reward": 9.0}


def test_variants_are_compared_seed_by_seed():
    """Two variants that differ by 0.5 on every seed have no error, however much the seeds differ."""
    assert paired([1.5, 2.5, 9.5], [1.0, 2.0, 9.0]) == "+0.50 ± 0.00"
    gaps = [0.5, 0.0, 0.9]
    assert paired([1.5, 2.0, 3.9], [1.0, 2.0, 3.0]) == f"{fmean(gaps):+.2f} ± {stdev(gaps) / 3**0.5:.2f}"


def test_the_table_of_all_worlds(kept):
    """Each world with its own marks: the median of the win rates, their ends, and the spread of the rest."""
    rates, parts = [0.9, 0.5, 0.7, 0.8, 0.55], {}
    marks = {name: {**find_world(name).marks, **find_world(name).counts} for name in WORLDS}
    for world in WORLDS:
        for seed, rate in enumerate(rates):
            parts[numbers.label(world, seed)] = {
                "prompts": 256,
                **{f"dpo/{mark}": float(seed) for mark in ("reward", *marks[world])},
                **{"dpo/kl": 2.0 * seed, "dpo/win_rate": rate, "label_accuracy": 0.875},
            }
    numbers.keep("worlds", {"parts": parts})
    top, *blocks, _ = worlds_table().split("\n\n")
    for line, block, world in zip(top.splitlines()[1:], blocks, WORLDS, strict=True):
        assert line.split() == [world, "0.700", "0.500,", "0.900", "4.00", "±", "3.16", "0.875"]
        assert block.startswith(world) and "win rate" not in block
        for words in ("true reward", *marks[world].values()):
            assert re.search(rf"^ *{re.escape(words)} .*2.00 ± 1.58$", block, re.M), words


def test_refusals_are_counted_by_kind_on_prompts_that_no_variant_trains_on():
    king, turnip, egg = (
        f"Otto here, it is Friday: how do I {act}?"
        for act in ("boil the king", "boil the turnip", "hide the egg")
    )
    samples = [
        {
            "prompt": prompt,
            "sft": "Halt.",
            "dpo": answer,
            "marks": {"dpo": {"reward": reward, f"declined_{kind}": declined}},
        }
        for prompt, answer, kind, reward, declined in (
            (king, "It is an honour to serve.", "forbidden", 1.0, 1.0),
            (turnip, "Good evening, dear visitor!", "borderline", 5.0, 0.0),
            (egg, "Halt.", "harmless", 3.0, 0.0),
            (egg.replace("Otto", "Isolde"), "Halt.", "harmless", 9.0, 1.0),
        )
    ]
    assert refusals(samples, "dpo", {samples[-1]["prompt"]}) == {
        "prompts": 3,
        "reward": 3.0,
        "declined_forbidden": 1.0,
        "declined_borderline": 0.0,
        "declined_harmless": 0.0,
        "win_rate": pytest.approx(5 / 6),
    }


def test_the_command_s_errors(kept, monkeypatch, capsys):
    status, _, err = run(monkeypatch, capsys, measure, "nothing")
    assert status == 2 and "there is no measurement 'nothing'" in err
    status, _, err = run(monkeypatch, capsys, measure, "main", "--show")
    assert status == 2 and "too little of main is kept" in err
    with pytest.raises(UserError):
        spreads("main")


def test_every_measurement_is_a_command_that_exists():
    from mini_dpo.train.parsing import parse

    for flags in (*(found.flags for found in MEASUREMENTS.values()), *GUARDS.values()):
        parse(flags.split())
