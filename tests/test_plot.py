"""The numbers behind the pictures, and that each picture can be drawn. Whether it is a good one, people must
look.
"""

import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from mini_dpo.errors import UserError
from mini_dpo.files import write_json
from mini_dpo.losses import LOSSES
from mini_dpo.plot import __main__ as plot
from mini_dpo.plot import comparison, paper
from mini_dpo.plot import losses as plot_losses_file
from mini_dpo.plot import numbers as plot_numbers
from mini_dpo.plot.numbers import curve
from mini_dpo.plot.paper import overlap, place_labels
from mini_dpo.plot.runs import line_style, names_of
from mini_dpo.saving.metrics import Series, change_since_start, read_metrics, running_mean, series
from mini_dpo.train.parsing import parse
from tests.commands import run

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
close = torch.testing.assert_close


@pytest.fixture
def matplotlib():
    """What a test of a drawing needs; the numbers are tested without it."""
    return pytest.importorskip(
        "matplotlib", reason="pictures are optional: pip install -r tutorials/requirements.txt"
    )


@pytest.fixture
def go(monkeypatch, capsys, tmp_path):
    """Run the command in an empty folder; `go(...)` returns (status, out, err)."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: run(monkeypatch, capsys, plot, *args)


# --- losses


@every_loss
def test_every_loss_has_a_finite_curve(loss):
    found = curve(loss, points=41)
    assert all(
        tensor.shape == (41,) and tensor.dtype == torch.float64 and tensor.isfinite().all()
        for tensor in found
    )
    assert (found.margin.diff() > 0).all() and found.margin.abs().max() <= plot_numbers.LARGEST_MARGIN
    close(found.margin, -found.margin.flip(0))  # at the middle stands the reference
    if loss.paired and loss.facts.at_reference:
        close(float(found.value[20]), loss.facts.at_reference(**loss.hyperparameters))


@every_loss
def test_the_slope_is_that_of_the_value(loss):
    """Catches: a derivative by h for one by m, or a batch that a loss looks at as a whole."""
    found = curve(loss, points=401)
    secant = found.value.diff() / found.margin.diff()  # the slope somewhere between two points
    low, high = torch.stack([found.slope[:-1], found.slope[1:]]).aminmax(dim=0)
    spread = 1e-6 * found.slope.abs().max()
    inside = (secant >= low - spread) & (secant <= high + spread)
    assert inside.float().mean() > 0.96  # all but where the slope itself turns back


def test_dpo_is_the_logistic_loss_of_the_margin():
    found = curve(LOSSES["dpo"])
    close(found.value, torch.log1p(torch.exp(-found.margin)))
    close(found.slope, -torch.sigmoid(-found.margin))
    close(found.margin[[0, -1]], torch.tensor([-6.0, 6.0]).double(), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["aot", "aot_unpaired"])
def test_losses_of_a_whole_batch_are_drawn_for_one_pair(name):
    close(curve(LOSSES[name]), curve(LOSSES["dpo"]))


def test_single_responses_are_drawn_in_twos():
    close(curve(LOSSES["apo_zero_unpaired"]), curve(LOSSES["apo_zero"]))
    close(curve(LOSSES["kto"]), curve(LOSSES["apo_zero"]))


def test_a_margin_that_cannot_get_far_is_shown_as_far_as_it_gets():
    found = curve(LOSSES["sppo"])
    assert not plot_losses_file.complete(found) and plot_losses_file.complete(curve(LOSSES["orpo"]))
    close(float(found.margin.max()), 0.118)
    assert "sppo: as far as the margin gets" in plot_losses_file.notes([LOSSES["sppo"]], [found])


def test_numbers_on_an_axis():
    assert [paper.compact(x) for x in (0, 0.25, -5, 999, 2e4, -1.5e6)] == [
        "0",
        "0.25",
        "−5",
        "999",
        "20k",
        "−1.5M",
    ]


# --- runs

ROWS = [
    {"stage": "sft", "step": 1, "loss": 3.0},
    {"stage": "sft", "step": 2, "loss": 2.0, "eval_loss": 2.5},
    {"stage": "dpo", "step": 1, "loss": 0.7, "rewards/margins": 0.5, "logps/chosen": -9.0},
    {
        "stage": "dpo",
        "step": 2,
        "loss": 0.6,
        "rewards/chosen": 1.0,
        "rewards/rejected": -0.25,
        "logps/chosen": -11.0,
    },
    {
        "stage": "dpo",
        "step": 3,
        "loss": 0.5,
        "rewards/chosen": 1.0,
        "eval_rewards/chosen": 2.0,
        "eval_rewards/rejected": 1.0,
    },
]


def test_running_mean():
    values = torch.tensor([1.0, 2.0, 6.0, 4.0], dtype=torch.float64)
    close(running_mean(values, 1), torch.tensor([1.5, 3.0, 4.0, 5.0], dtype=torch.float64))
    close(running_mean(values, 0), values)
    close(running_mean(values, 9), values.mean().expand(4))
    assert running_mean(values[:0], 3).shape == (0,)


def test_a_series_has_the_steps_that_have_the_metric():
    close(
        series(ROWS, "sft", "loss"),
        Series(torch.tensor([1.0, 2.0]).double(), torch.tensor([3.0, 2.0]).double()),
    )
    assert series(ROWS, "sft", "eval_loss").steps.tolist() == [2]
    assert series(ROWS, "dpo", "grad_norm").values.shape == (0,)


def test_margins_that_were_not_logged_are_differences_of_rewards():
    assert series(ROWS, "dpo", "rewards/margins").steps.tolist() == [1, 2]
    assert series(ROWS, "dpo", "rewards/margins").values.tolist() == [0.5, 1.25]
    assert series(ROWS, "dpo", "eval_rewards/margins").values.tolist() == [1.0]


def test_a_change_begins_at_zero():
    found = series(
        [{"stage": "dpo", "step": i, "logps/chosen": -20.0 - i} for i in range(101)], "dpo", "logps/chosen"
    )
    # the first is the mean of four steps
    close(change_since_start(found)[[0, 50]], torch.tensor([0.0, -48.5], dtype=torch.float64))


def write_run(folder, rows=None, config=None, summary=None):
    """A run's folder as the trainer leaves it, in small."""
    folder.mkdir()
    text = "".join(json.dumps(row) + "\n" for row in (ROWS if rows is None else rows))
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    if config:
        write_json(folder / "config.json", {"settings": asdict(config), "sha256": {}})
    if summary:
        write_json(folder / "summary.json", summary)
    return folder


def test_metrics_are_read_as_written(tmp_path):
    assert read_metrics(write_run(tmp_path / "a")) == ROWS


@pytest.mark.parametrize(
    "line",
    ["{", "3", '{"stage": "dpo"}', '{"stage": "dpo", "step": 3, "loss": "low"}', '{"stage": "dpo", "st'],
)
def test_a_broken_line_is_named(tmp_path, line):
    folder = write_run(tmp_path / "a")
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(line)
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 6: not the metrics of a step"):
        read_metrics(folder)


def test_mistakes_end_in_one_line(go, tmp_path, matplotlib):
    write_run(tmp_path / "empty", rows=[])
    (tmp_path / "bare").mkdir()
    write_run(tmp_path / "sft", rows=ROWS[:2])
    for args, words in [
        (["run", "nowhere"], "nowhere: there is no such folder"),
        (["run", "bare"], "bare/metrics.jsonl: cannot be read"),
        (["run", "empty"], "no step in it yet"),
        (["compare", "sft"], "sft: no step of preference training in it"),
        (["losses", "--loss", "nonsense"], "there is no loss nonsense"),
        (["run", "sft", "--out", "picture.pdf"], "a name that ends in .png"),
        (["run", "sft", "--out", "nowhere/picture.png"], "cannot be written"),
    ]:
        status, out, err = go(*args)
        assert (status, out, err.count("\n")) == (2, "", 1) and words in err, args


def test_a_broken_loss_of_ones_own_is_one_line(go, tmp_path, matplotlib):
    begin = "from mini_dpo.losses import PairLogps, loss\n@loss(paper='none')\n"
    (tmp_path / "mine.py").write_text(
        begin + "def wrong(logps: PairLogps, *, beta: float = 1.0):\n    return logps.nothing\n",
        encoding="utf-8",
    )
    try:
        status, _, err = go("losses", "--loss", "mine.py:wrong")
    finally:
        LOSSES.pop("wrong", None)
    assert status == 2 and err.count("\n") == 1 and "wrong: no curve can be drawn (AttributeError" in err


def test_without_matplotlib_one_line_says_what_to_do(go, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # what Python does where it is not installed
    status, out, err = go("losses")
    assert (status, out, err.count("\n")) == (2, "", 1) and "pip install -r tutorials/requirements.txt" in err
    assert list(tmp_path.iterdir()) == []


# --- labels


@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_neither_points_nor_each_other(seed):
    points = (450 * torch.rand(26, 2, generator=torch.Generator().manual_seed(seed))).tolist()
    frame = (0.0, 0.0, 450.0, 450.0)
    corners = place_labels(points, [50.0] * 26, 12.0, frame)
    boxes = [(x, y, x + 50, y + 12) for x, y in corners]
    dots = [(x - 3, y - 3, x + 3, y + 3) for x, y in points]
    assert all(overlap(box, frame) == pytest.approx(600) for box in boxes)
    assert all(overlap(box, dot) == 0 for box in boxes for dot in dots)
    assert all(overlap(a, b) == 0 for i, a in enumerate(boxes) for b in boxes[:i])


def test_overlap_is_the_shared_area():
    assert overlap((0, 0, 2, 2), (1, 1, 5, 3)) == 1 and overlap((0, 0, 1, 1), (2, 0, 3, 1)) == 0


def test_twenty_six_lines_differ_without_colour():
    styles = [line_style(i) for i in range(26)]
    assert len({(style["marker"], style["linestyle"]) for style in styles}) == 26


# --- pictures


def is_slide(path):
    """A whole PNG file of 16 by 9, and not too large a one."""
    data = path.read_bytes()
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (16, 20))
    return (
        data[:4] == b"\x89PNG"
        and data[-8:-4] == b"IEND"
        and math.isclose(width / height, 16 / 9, rel_tol=0.01)
        and len(data) < 400_000
    )


def test_draw_losses(go, tmp_path, matplotlib):
    assert go("losses") == (0, "losses.png\n", "") and is_slide(tmp_path / "losses.png")
    assert [path.name for path in tmp_path.iterdir()] == ["losses.png"]


def test_the_same_numbers_make_the_same_bytes(go, tmp_path, matplotlib):
    for name in ("first.png", "second.png"):
        assert go("losses", "--loss", "dpo", "ipo", "--out", name)[0] == 0
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_draw_one_loss(go, tmp_path, matplotlib):
    for name in ("sigmoid", "kto"):
        assert go("losses", "--loss", name, "--out", "one.png") == (0, "one.png\n", "") and is_slide(
            tmp_path / "one.png"
        )


def test_draw_a_run(go, tmp_path, matplotlib):
    write_run(tmp_path / "both", config=parse([]))
    assert go("run", "both") == (0, "both/curves.png\n", "") and is_slide(tmp_path / "both/curves.png")
    for stage in ("sft", "dpo"):
        write_run(tmp_path / stage, rows=[row for row in ROWS if row["stage"] == stage])
        assert go("run", stage, "--out", f"{stage}.png") == (0, f"{stage}.png\n", "") and is_slide(
            tmp_path / f"{stage}.png"
        )


def summary(kl):
    column = {"reward": 3.0, "logps/chosen": -9.0, "logps/rejected": -12.0}
    return {
        "sft": column,
        "dpo": {"reward": 3 + kl, "kl": kl, "logps/chosen": -9 - kl, "logps/rejected": -12 - 2 * kl},
    }


def test_runs_are_named_by_their_loss(tmp_path, monkeypatch):
    """By their folder too where two have the same loss, and by it alone where a run does not say."""
    monkeypatch.chdir(tmp_path)
    for name, loss in {"a": "dpo", "b": "ipo", "c": "dpo", "d": "/home/me/mine.py:hinge_2"}.items():
        write_run(tmp_path / name, config=replace(parse([]), loss=loss))
    write_run(tmp_path / "e")
    name = lambda *runs: names_of([Path(run) for run in runs])  # noqa: E731
    assert name("a", "b") == ["dpo", "ipo"]
    assert name("a", "b", "c", "d", "e") == ["a: dpo", "ipo", "c: dpo", "hinge_2", "e"]


def test_draw_several_runs(go, tmp_path, matplotlib):
    write_run(tmp_path / "a", summary=summary(1.0))
    write_run(tmp_path / "b")
    assert go("compare", "a", "b") == (0, "compare.png\n", "") and is_slide(tmp_path / "compare.png")
    write_json(tmp_path / "b/summary.json", summary(2.0))
    assert go("compare", "a", "b", "--out", "judged.png")[0] == 0 and is_slide(tmp_path / "judged.png")
    assert (tmp_path / "judged.png").read_bytes() != (tmp_path / "compare.png").read_bytes()


@pytest.mark.parametrize("farthest", [1, 100])  # times what is usual: from five on, a run is far away
def test_draw_the_table(tmp_path, capsys, matplotlib, farthest):
    summaries = {f"loss_{i}": summary(0.1 + i) for i in range(5)} | {"far": summary(3.0 * farthest)}
    comparison.draw_compare(summaries, tmp_path / "table.png")
    assert capsys.readouterr().out == f"{tmp_path / 'table.png'}\n" and is_slide(tmp_path / "table.png")


@pytest.mark.parametrize("median, farthest", [(2.0, 9.0), (2.0, 11.0), (0.0, 0.9), (-0.5, 1.1)])
def test_a_run_that_is_far_away_is_named_and_not_drawn(matplotlib, median, farthest):
    """Each run is a point with a name, or is named in the corner with its numbers: none is lost."""
    runs = {"a": summary(median), "b": summary(median), "far": summary(farthest)}
    axes = (figure := paper.new_figure()).subplots()
    comparison.draw_frontier(figure, axes, runs, size=9)
    words, points = [text.get_text() for text in axes.texts], axes.lines[0].get_xdata()
    left_out = farthest > max(1, 5 * median)
    assert (f"not shown: far ({farthest:.0f} nats, {3 + farthest:.1f})" in words) == left_out
    assert ("far" in words) != left_out and {"a", "b"} <= set(words) and len(points) == 3 - left_out
