"""Draw a chapter's pictures, from the very numbers that the chapter computes.

    python -m tutorials.pictures 4        run chapter 4 and draw its pictures into tutorials/pictures
    python -m tutorials.pictures          those of all chapters

Each function below draws one picture: it is given an empty slide and the chapter's variables at the place
where the chapter shows the command. matplotlib is needed: pip install -r tutorials/requirements.txt
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import torch

from mini_dpo.bench.rows import RUNGS
from mini_dpo.bench.trl import TRL_ROWS
from mini_dpo.cli import run_command
from mini_dpo.exact import PROMPTS, WORDS
from mini_dpo.losses import LOSSES
from mini_dpo.plot.numbers import curve, in_units_of_the_start
from mini_dpo.plot.paper import DARK, DASHED, LIGHT, grid, new_figure, save
from mini_dpo.plot.pictures import draw_captions
from mini_dpo.plot.runs import draw_run
from mini_dpo.theory.bradley_terry import expected_reward, kl, optimal_policy
from tutorials.chapters import HERE, PICTURES, chapter_paths, find_chapter, run_chapter
from tutorials.kept import over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWINGS: dict[int, list[Callable]] = {}
FOLDER = HERE / "pictures"
# behind a text that lies on lines
WHITE = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
FRAME = {"boxstyle": "round,pad=0.35", "facecolor": "0.93", "edgecolor": DARK}  # a box of a diagram
ARROW = {"arrowstyle": "->", "linewidth": 1.5}
CIRCLE = {"boxstyle": "circle,pad=0.1", "facecolor": "white", "edgecolor": DARK}


def drawing(chapter: int) -> Callable[[Callable], Callable]:
    """Register the function below as a picture of a chapter; its name is the file's."""

    def register(function: Callable) -> Callable:
        DRAWINGS.setdefault(chapter, []).append(function)
        return function

    return register


def box(corner: tuple[float, float], width: float, height: float, **style) -> object:
    """A rectangle to put into a panel."""
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, **style)


def draw(chapter: int, folder: Path, variables: dict) -> str:
    """Draw a chapter's pictures into a folder; returns what the command prints: where they are."""
    for function in DRAWINGS[chapter]:
        figure = new_figure()
        function(figure, variables)
        save(figure, folder / f"{function.__name__}.png")
    return "\n".join(f"tutorials/pictures/{function.__name__}.png" for function in DRAWINGS[chapter])


# --- 1. preferences


@drawing(1)
def comparisons(figure: Figure, v: dict) -> None:
    """The loss over two scores, where it has a minimum and where it has none."""
    black, smoke = (
        torch.linspace(-4, 4, 81, dtype=torch.float64),
        torch.linspace(-7, 3, 101, dtype=torch.float64),
    )
    panels = figure.subplots(1, 2, sharey=True)
    data = [(v["mended_winners"], v["mended_losers"]), (v["few_winners"], v["few_losers"])]
    for axes, (winners, losers), title in zip(
        panels, data, ["smoke won once: one minimum", "smoke never won: no minimum"], strict=True
    ):
        grid = [
            [
                float(v["loss"](torch.stack([torch.zeros((), dtype=torch.float64), b, s]), winners, losers))
                for b in black
            ]
            for s in smoke
        ]
        lines = axes.contour(
            black, smoke, grid, levels=[1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10], colors=DARK, linewidths=1
        )
        axes.clabel(lines, fontsize=10)
        axes.set_title(title)
        axes.set_xlabel("score of black, mint being 0")
    panels[0].set_ylabel("score of smoke, mint being 0")
    best = v["mended"] - v["mended"][0]
    panels[0].plot(best[1], best[2], "*", color=DARK, markersize=16)
    way = v["way"] - v["way"][:, :1]
    panels[1].plot(way[:, 1], way[:, 2], color=DARK, linewidth=3)
    panels[1].set_ylim(-7, 3)
    for step in (1, 10, 100):
        panels[1].annotate(
            f"step {step}",
            (way[step, 1], way[step, 2]),
            (8, 0),
            textcoords="offset points",
            va="center",
            bbox=WHITE,
        )
        panels[1].plot(way[step, 1], way[step, 2], "o", color=DARK, markersize=6)


# --- 2. probability


@drawing(2)
def mask(figure: Figure, v: dict) -> None:
    """A small batch token by token: what is prompt, response and end, and which position predicts which
    token.
    """
    batch, tokenizer = v["batch"], v["tokenizer"]
    axes = figure.subplots()
    places = zip(
        batch.ids.tolist(),
        batch.layout.positions.tolist(),
        batch.layout.trees.tolist(),
        batch.layout.branches.tolist(),
        strict=True,
    )
    for token, t, row, branch in places:
        axes.add_patch(
            box(
                (t, 1.6 * row),
                0.94,
                0.6,
                facecolor="0.75" if branch else "white",
                edgecolor=DARK,
                linewidth=1,
            )
        )
        text = tokenizer.decode([token]).replace("<|", "").replace("|>", "").strip()
        axes.text(
            t + 0.47, 1.6 * row + 0.3, text, ha="center", va="center", fontsize=9 if len(text) < 9 else 7
        )
        if branch:
            bend = {"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.6", "linewidth": 1.2}
            axes.annotate("", (t + 0.47, 1.6 * row - 0.02), (t - 0.53, 1.6 * row - 0.02), arrowprops=bend)
    B, T = len(batch.lengths), batch.layout.longest
    for row in range(B):
        axes.text(-0.2, 1.6 * row + 0.3, f"response {row}", ha="right", va="center", fontsize=13)
    for t in range(T):
        axes.text(t + 0.47, 1.6 * B - 0.75, str(t), ha="center", fontsize=11)
    axes.text(-0.2, 1.6 * B - 0.75, "position", ha="right", fontsize=11)
    for i, (label, colour) in enumerate(
        {"prompt and marker: read, not scored": "white", "response with its end: scored": "0.75"}.items()
    ):
        x = i * 0.45 * T
        axes.add_patch(box((x, 3.4), 0.5, 0.3, facecolor=colour, edgecolor=DARK))
        axes.text(x + 0.65, 3.55, label, va="center", fontsize=13)
    axes.set_xlim(-1.6, T + 0.1)
    axes.set_ylim(3.9, -0.6)
    axes.axis("off")


# --- 3. learning to talk


@drawing(3)
def talking(figure: Figure, v: dict) -> None:
    """SFT's loss over the length of training with its floor, and what the judge thinks of the clerks and of
    two models.
    """
    left, right = figure.subplots(1, 2)
    steps, losses = zip(*v["curve"].items(), strict=True)
    left.plot(steps, losses, "o-", color=DARK, markersize=7)
    left.axhline(float(v["entropy"]), color=DARK, linestyle=DASHED)
    left.text(
        steps[-1], float(v["entropy"]) - 0.02, "entropy of the corpus", ha="right", va="top", fontsize=13
    )
    left.set_ylim(float(v["entropy"]) - 0.2, None)
    left.set_xlabel("training steps")
    left.set_ylabel("negative log-likelihood, nats per response")
    left.set_title("the tea house: down to a floor that is known")
    bins = range(-16, 17, 2)
    for (name, rewards), style in zip(
        v["rewards"].items(), ({"color": "0.8"}, {"linestyle": DASHED}, {"linewidth": 2}), strict=True
    ):
        kind = {"histtype": "stepfilled"} if "color" in style else {"histtype": "step", "color": DARK}
        right.hist(rewards, bins=bins, label=name, **kind, **style)
    right.set_xlabel("true reward of an answer")
    right.set_ylabel("answers, of 256")
    right.set_title("the shop: towards the clerks, not beyond them")
    right.legend(loc="upper left")


# --- 4. reward with a leash


@drawing(4)
def frontier(figure: Figure, v: dict) -> None:
    """Reward against divergence: the family of optima with tangents of slope beta, and random policies below
    it.
    """
    axes = figure.subplots()
    ref, reward = v["ref"], v["reward"]
    family = [
        optimal_policy(ref, reward, beta) for beta in torch.logspace(-2, 2, 300, dtype=torch.float64).tolist()
    ]
    axes.plot(
        *zip(*((float(kl(p, ref)), float(expected_reward(p, reward))) for p in family), strict=True),
        color=DARK,
        linewidth=2.5,
    )
    generator = torch.Generator().manual_seed(0)
    others = [
        (ref * a + 1.5 * torch.randn(len(ref), generator=generator, dtype=torch.float64)).log_softmax(-1)
        for a in torch.linspace(0, 2, 600).tolist()
    ]
    axes.plot(
        *zip(*((float(kl(p, ref)), float(expected_reward(p, reward))) for p in others), strict=True),
        "x",
        color="0.5",
        markersize=4,
        label="random policies",
    )
    for beta in (0.2, 0.5, 2.0):
        x, y = v["frontier"][beta]
        reach = min(0.55, 0.35 / beta)
        axes.plot([x - reach, x + reach], [y - beta * reach, y + beta * reach], color=DARK, linestyle=DASHED)
        axes.plot(x, y, "o", color=DARK, markersize=9)
        place = dict(xytext=(10, -24), textcoords="offset points")
        axes.annotate(f"β = {beta:g}", (x, y), **place, fontsize=14, bbox=WHITE)
    axes.plot(0, float(expected_reward(ref, reward)), "s", color=DARK, markerfacecolor="white", markersize=10)
    axes.annotate(
        "reference",
        (0, float(expected_reward(ref, reward))),
        (14, -6),
        textcoords="offset points",
        fontsize=14,
        bbox=WHITE,
    )
    axes.set_xlim(-0.1, 3.8)
    axes.set_xlabel("KL(policy || reference), nats", fontsize=14)
    axes.set_ylabel("expected reward", fontsize=14)
    axes.legend(loc="lower right", fontsize=14)


# --- 5. the trick


@drawing(5)
def derivation(figure: Figure, v: dict) -> None:
    """The two pipelines side by side, and the steps from a comparison to DPO's loss."""
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
    for x, title, boxes in (
        (
            0,
            "RLHF",
            [
                "comparisons",
                "fit a reward model",
                "reinforcement learning:\npolicy, reference,\nreward, value",
            ],
        ),
        (1, "DPO", ["comparisons", "one loss:\npolicy, reference"]),
    ):
        left.text(x, 4.0, title, ha="center", fontsize=18)
        places = [3.3, *([2.2, 1.1] if len(boxes) == 3 else [1.65]), 0.1]
        chain(left, [(x, y, words) for y, words in zip(places, [*boxes, "policy"], strict=True)])
    left.set_xlim(-0.55, 1.55)
    left.set_ylim(-0.2, 4.3)
    steps = {
        "bradley": (0, 3.5, "comparisons (chapter 1)\nP(a > b) = σ(r(a) − r(b))"),
        "optimum": (1, 3.5, "the best policy (chapter 4)\nπ* = ref exp(r / β) / Z"),
        "inside": (1, 2.4, "solved for the reward\nr = β log(π* / ref) + β log Z"),
        "cancels": (0.5, 1.3, "put into the comparison: Z cancels\nP(y_w > y_l) = σ(β h)"),
        "loss": (0.5, 0.2, "likelihood of what people chose\nL = −log σ(β h)"),
    }
    arrows = [("optimum", "inside"), ("inside", "cancels"), ("bradley", "cancels"), ("cancels", "loss")]
    for start, end in arrows:
        (x, y, _), (to_x, to_y, _) = steps[start], steps[end]
        right.annotate("", (to_x, to_y + 0.27), (x, y - 0.27), arrowprops=ARROW)
    for x, y, words in steps.values():
        right.text(x, y, words, ha="center", va="center", fontsize=14, linespacing=1.6, bbox=FRAME)
    right.set_xlim(-0.5, 1.5)
    right.set_ylim(-0.2, 4.2)
    for axes in (left, right):
        axes.axis("off")


def chain(axes: Axes, boxes: list[tuple[float, float, str]]) -> None:
    """Boxes with words, and an arrow from each to the next."""
    half = [0.12 + 0.1 * (words.count("\n") + 1) for _, _, words in boxes]
    for i, ((x, y, _), (to_x, to_y, _)) in enumerate(itertools.pairwise(boxes)):
        axes.annotate("", (to_x, to_y + half[i + 1]), (x, y - half[i]), arrowprops=ARROW)
    for x, y, words in boxes:
        axes.text(x, y, words, ha="center", va="center", fontsize=14, bbox=FRAME)


@drawing(5)
def weight(figure: Figure, v: dict) -> None:
    """How hard a pair pulls, against its margin."""
    axes = figure.subplots()
    margin = torch.linspace(-6, 6, 200)
    axes.plot(margin, torch.sigmoid(-margin), color=DARK, linewidth=3)
    for m, words, place in (
        (-4.0, "ranked wrongly:\npulls with nearly full force", (-100, -95)),
        (0.0, "at the reference,\nwhere training begins: one half", (25, 5)),
        (4.0, "settled:\nhardly pulls any more", (-20, 40)),
    ):
        y = float(torch.sigmoid(torch.tensor(-m)))
        axes.plot(m, y, "o", color=DARK, markersize=11)
        axes.annotate(words, (m, y), place, textcoords="offset points", fontsize=15)
    axes.axvline(0, color=LIGHT, linewidth=0.8)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("margin m of the pair", fontsize=14)
    axes.set_ylabel("weight σ(−m) in the gradient", fontsize=14)


@drawing(5)
def landing(figure: Figure, v: dict) -> None:
    """The GPT's probability of each response against the optimum's, after training for shorter and longer."""
    panels = figure.subplots(2, 2, sharex=True, sharey=True).flat
    for axes, (steps, logps) in zip(panels, v["learned"].items(), strict=True):
        axes.loglog([1e-5, 1], [1e-5, 1], color=LIGHT)
        for prompt, style in enumerate(({"marker": "o"}, {"marker": "s", "markerfacecolor": "white"})):
            label = f"prompt {WORDS[PROMPTS[prompt][0]]!r}"
            axes.loglog(
                v["optimum"][prompt].exp(),
                logps[prompt].exp(),
                linestyle="none",
                color=DARK,
                markersize=9,
                label=label,
                **style,
            )
        axes.set_title(f"{steps} steps" if steps else "the reference")
        axes.legend(loc="lower right")
    figure.supxlabel("the optimum's probability of a response")
    figure.supylabel("the model's")


# --- 6. the loop


@drawing(6)
def curves(figure: Figure, v: dict) -> None:
    """The curves of the chapter's run, as `python -m mini_dpo.plot run` draws them."""
    draw_run(figure, v["rows"])


@drawing(6)
def seeds(figure: Figure, v: dict) -> None:
    """The true reward before and after DPO, one line per seed, for a short and for a longer SFT."""
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, title) in zip(
        panels, {"short": "150 steps of SFT", "main": "250 steps"}.items(), strict=True
    ):
        found = over_seeds(name)
        for before, after in zip(found["sft/reward"], found["dpo/reward"], strict=True):
            axes.plot([0, 1], [before, after], "o-", color=DARK, markersize=8)
        axes.set_xticks([0, 1], ["SFT", "DPO"], fontsize=15)
        axes.set_xlim(-0.3, 1.3)
        axes.set_title(f"{title}, one line per seed", fontsize=15)
    panels[0].set_ylabel("true reward", fontsize=15)


# --- 7. choosing beta, and stopping


@drawing(7)
def too_far(figure: Figure, v: dict) -> None:
    """Learned and true reward along the divergence; held-out loss and true reward along the training
    steps.
    """
    panels = figure.subplot_mosaic([["left", "loss"], ["left", "reward"]])
    left = panels["left"]
    ref, spoons, gold = v["ref"], v["spoons"], v["gold"]
    slope = v["results"][1.0][2]
    family = [
        v["policy_of"](slope / beta) for beta in torch.logspace(1, -1, 100, dtype=torch.float64).tolist()
    ]
    distances = [float(kl(p, ref)) for p in family]
    learned = [
        slope * float(expected_reward(p, spoons) - expected_reward(ref, spoons))
        + float(expected_reward(ref, gold))
        for p in family
    ]
    left.plot(distances, learned, color=DARK, linestyle=DASHED, label="learned reward (from the same start)")
    left.plot(
        distances,
        [float(expected_reward(p, gold)) for p in family],
        color=DARK,
        linewidth=2.5,
        label="true reward",
    )
    left.plot(
        *zip(*v["best_of"].values(), strict=True), "o-", color="0.5", label="true reward of the best of n"
    )
    left.set_xscale("function", functions=(lambda x: abs(x) ** 0.5, lambda x: x**2))
    left.set_xticks([0, 0.25, 1, 2, 4, 6, 9])
    left.set_xlabel("KL(policy || reference), nats, square-root scale")
    left.set_ylabel("expected reward")
    left.legend(loc="lower left")
    steps, _, rewards, losses = zip(*v["path"], strict=True)
    best = max(range(len(steps)), key=lambda i: rewards[i])
    for name, values, label in (("loss", losses, "held-out loss"), ("reward", rewards, "true reward")):
        panels[name].plot(steps, values, color=DARK, linewidth=2.5)
        panels[name].axvline(steps[best], color=DARK, linestyle=DASHED)
        panels[name].set_xlabel("training step")
        panels[name].set_ylabel(label)
    panels["loss"].annotate(
        "here the true reward turns", (steps[best], max(losses)), (10, -10), textcoords="offset points"
    )


# --- 8. other shapes of the same idea


FIVE = {"dpo": "-", "cdpo": DASHED, "ipo": "-.", "hinge": ":", "kto": (0, (1, 1, 5, 1))}


@drawing(8)
def five(figure: Figure, v: dict) -> None:
    """Five losses and their slopes against the margin, each in units of its slope at the reference."""
    left, right = figure.subplots(1, 2)
    for (name, style), width in zip(FIVE.items(), (3.5, 2, 2, 2.5, 2), strict=True):
        found = in_units_of_the_start(curve(LOSSES[name]))
        look = {"color": DARK, "linestyle": style, "linewidth": width, "label": name}
        left.plot(found.margin, found.value, **look)
        right.plot(found.margin, found.slope, **look)
    left.set_ylim(-3, 8)
    right.set_ylim(-2.5, 1.5)
    for axes, label in ((left, "loss, 0 at the reference"), (right, "slope, −1 at the reference")):
        axes.axhline(0, color=LIGHT, linewidth=0.8)
        axes.axvline(0, color=LIGHT, linewidth=0.8)
        axes.set_xlim(-6, 6)
        axes.set_xlabel("margin m", fontsize=14)
        axes.set_ylabel(label, fontsize=14)
    right.legend(loc="lower right", fontsize=14)


@drawing(8)
def ends(figure: Figure, v: dict) -> None:
    """The declared minimiser of four losses against the share of people who prefer the first response."""
    axes = figure.subplots()
    shares = torch.linspace(0.02, 0.98, 193).tolist()
    for name, style in {"dpo": "-", "cdpo": DASHED, "ipo": "-.", "hinge": ":"}.items():
        loss = LOSSES[name]
        hyper = {**loss.hyperparameters, **v["shown"][name]}
        margins = [loss.facts.best_margin(p, **hyper) for p in shares]
        axes.plot(shares, margins, color=DARK, linestyle=style, linewidth=2.5)
        place = (shares[-1], margins[-1]), (6, 0)
        axes.annotate(name, *place, textcoords="offset points", va="center", fontsize=14)
    axes.axhline(0, color=LIGHT, linewidth=0.8)
    axes.axvline(0.5, color=LIGHT, linewidth=0.8)
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("share p of people who prefer the first response", fontsize=14)
    axes.set_ylabel("margin m where the loss is least", fontsize=14)


@drawing(8)
def certain(figure: Figure, v: dict) -> None:
    """How far apart two responses are driven of which everybody prefers the first."""
    axes = figure.subplots()
    for (name, margins), style in zip(v["certain"].items(), ("-", DASHED, "-."), strict=True):
        axes.plot(range(len(margins)), margins, color=DARK, linestyle=style, linewidth=2.5)
        axes.annotate(
            name, (len(margins), margins[-1]), (4, 0), textcoords="offset points", va="center", fontsize=14
        )
    steps = range(1, len(v["certain"]["DPO"]))
    axes.plot(
        steps, [math.log(0.2 * t + 1) for t in steps], ":", color="0.5", linewidth=2, label="log(2ηt + 1)"
    )
    axes.legend(loc="upper left", fontsize=14)
    axes.set_xscale("log")
    axes.set_xlim(1, 8_000)
    axes.set_xlabel("training steps")
    axes.set_ylabel("h, nats")


# --- 9. how it fails


@drawing(9)
def failures(figure: Figure, v: dict) -> None:
    """The five ways to fail, a panel each."""
    panels = grid(figure, 5)
    displacement, length, coverage, noise, too_far = panels
    for word, style in zip(range(3), ("-", DASHED, ":"), strict=True):
        displacement.plot(
            v["displaced"][:, word], color=DARK, linestyle=style, linewidth=2.5, label=v["words"][word]
        )
    displacement.set_xlim(0, 150)
    displacement.set_xlabel("steps of training on No over Never")
    displacement.set_ylabel("probability")
    displacement.legend(loc="center right")

    tokens = {name.split(",")[0]: float(p.exp() @ v["length"]) for name, p in v["lengths"].items()}
    length.barh(list(tokens), list(tokens.values()), color="0.7", edgecolor=DARK)
    length.invert_yaxis()
    length.set_xlabel("mean tokens of a response")

    for i, ((name, found), shade) in enumerate(zip(v["unseen"].items(), ("0.85", "0.6", DARK), strict=True)):
        places = [place + 0.27 * i for place in range(4)]
        coverage.bar(places, found.tolist(), 0.27, color=shade, edgecolor=DARK, label=name)
    coverage.set_xticks([place + 0.27 for place in range(4)], "ABCD")
    coverage.set_ylabel("probability")
    coverage.set_ylim(0, 1)
    coverage.legend(loc="upper right")

    names = ["dpo", "cdpo", "rdpo", "dpo, smaller beta"]
    for i, name in enumerate(names):
        for n, marker, fill in ((5_000, "o", DARK), (200, "s", "white")):
            gaps = [g for g in v["noise"][n, name] if g < 5]
            y = i + (0.15 if n == 200 else -0.15)
            noise.plot(gaps, [y] * len(gaps), marker, color=DARK, markerfacecolor=fill)
            if len(gaps) < 20:
                noise.text(max(gaps) + 0.1, y, f"and {20 - len(gaps)} without a minimum", va="center")
    noise.set_yticks(range(len(names)), names)
    noise.invert_yaxis()
    noise.set_xlabel("shortfall, a point a world (dark: 5,000 labels, white: 200)")

    spoons, gold, start = v["spoons"], v["gold"], v["start"]
    family = [(start + theta * spoons).log_softmax(-1) for theta in torch.linspace(0, 6, 60).tolist()]
    distance = [float(kl(p, start)) for p in family]
    beginning = float(expected_reward(start, gold))
    slope = float((v["offline"][1.0] - start).diff()[0])  # what the first round learns a spoon to be worth
    learned = [
        beginning + slope * float(expected_reward(p, spoons) - expected_reward(start, spoons)) for p in family
    ]
    too_far.plot(distance, learned, color=DARK, linestyle=DASHED, linewidth=2, label="learned reward")
    too_far.plot(
        distance,
        [float(expected_reward(p, gold)) for p in family],
        color=DARK,
        linewidth=2.5,
        label="true reward",
    )
    too_far.set_xlabel("KL(policy || reference), nats")
    too_far.legend(loc="lower left")
    titles = ("1. displacement", "2. length", "3. never compared", "4. noise", "5. over-optimisation")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, loc="left")


@drawing(9)
def online(figure: Figure, v: dict) -> None:
    """The loop of online DPO, and the true reward of its rounds beside one long round."""
    left, right = figure.subplots(1, 2)
    places = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    words = [
        "the policy writes\ntwo answers per prompt",
        "people or a judge\ncompare them",
        "DPO on these pairs,\nreference: the policy",
        "the trained policy",
    ]
    for (x, y), (to_x, to_y) in zip(places, [*places[1:], places[0]], strict=True):
        bend = {**ARROW, "connectionstyle": "arc3,rad=-0.25", "shrinkA": 48, "shrinkB": 48}
        left.annotate("", (to_x, to_y), (x, y), arrowprops=bend)
    for (x, y), text in zip(places, words, strict=True):
        left.text(x, y, text, ha="center", va="center", fontsize=13, bbox=FRAME)
    left.set_xlim(-1.7, 1.7)
    left.set_ylim(-1.4, 1.4)
    left.axis("off")
    reward = lambda policies: [float(expected_reward(p, v["gold"])) for p in policies]  # noqa: E731
    rounds, offline = reward(v["rounds"]), reward([v["start"], *v["offline"].values()])
    right.plot(range(len(rounds)), rounds, "o-", color=DARK, markersize=8, label="five rounds at β = 1")
    right.plot(
        [0, *(1 / beta for beta in v["offline"])],
        offline,
        "s",
        linestyle=DASHED,
        color=DARK,
        markerfacecolor="white",
        markersize=8,
        label="one round, ever smaller β",
    )
    right.set_xlabel("1/β, summed over the rounds", fontsize=13)
    right.set_ylabel("true reward", fontsize=13)
    right.legend(loc="lower left", fontsize=13)


# --- 10. make it yours

STATIONS = {"file to tokens": range(1, 6), "log-probs": range(6, 11), "two models": range(11, 15)} | {
    "loss": range(15, 19),
    "loop": range(19, 21),
}
NOTICED = {
    "the first loss\nis not log 2": {11, 14},
    "the curve\nof the loss": {6, 12},
    "nan, or too\nmuch memory": {4, 13, 15},
    "the answers": {1, 16},
    "none of these": {2, 3, 5, 7, 8, 9, 10, 17, 18, 19, 20},
}


@drawing(10)
def twenty(figure: Figure, v: dict) -> None:
    """The twenty mistakes by the station of a pair at which they happen and by what shows them."""
    axes = figure.subplots()
    for i, (station, numbers) in enumerate(STATIONS.items()):
        axes.text(i, -0.75, station, ha="center", va="center", fontsize=16, bbox=FRAME)
        if i:
            axes.annotate("", (i - 0.36, -0.75), (i - 0.6, -0.75), arrowprops=ARROW)
        for row, noticed in enumerate(NOTICED.values()):
            here = sorted(noticed & set(numbers))
            for place, number in enumerate(here):
                x = i + 0.2 * (place - (len(here) - 1) / 2)
                shade = "0.8" if noticed is NOTICED["none of these"] else "white"
                axes.plot(x, row, "o", markersize=30, markerfacecolor=shade, markeredgecolor=DARK)
                axes.text(x, row, str(number), ha="center", va="center", fontsize=14)
    for row, words in enumerate(NOTICED):
        axes.text(-0.75, row, words, ha="right", va="center", fontsize=15)
        axes.axhline(row + 0.5, color=LIGHT, linewidth=0.8)
    axes.set_xlim(-1.4, len(STATIONS) - 0.5)
    axes.set_ylim(len(NOTICED) - 0.4, -1.1)
    axes.axis("off")


# --- 11. where the time goes


@drawing(11)
def ladder(figure: Figure, v: dict) -> None:
    """Pairs a second on each rung, for two shapes, with TRL's beside the rungs that do the same."""
    for axes, (name, results) in zip(figure.subplots(1, 2), v["results"].items(), strict=True):
        rows, trl = results["rows"], results["trl"]
        speeds = [row["pairs_per_second"] for row in rows.values()]
        axes.barh(range(len(speeds)), speeds, color=DARK, height=0.6)
        for i, speed in enumerate(speeds):
            axes.text(speed, i, f" {speed:.3g}", va="center", fontsize=11)
        for title, row in trl.items():
            ours, _, _, tuned = TRL_ROWS[title]
            if ours in rows:
                place, speed = list(rows).index(ours) + (0.62 if tuned else 0.4), row["pairs_per_second"]
                axes.barh(place, speed, color="white", edgecolor=DARK, hatch="//", height=0.18)
        axes.set_yticks(
            range(len(speeds)),
            [RUNGS[row].idea.removeprefix("+ ") for row in rows] if name == "toy" else [""] * len(speeds),
            fontsize=11,
        )
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * max(speeds))
        axes.set_xlabel("pairs per second")
        axes.set_title("a small model" if name == "toy" else "GPT-2's shape")
    axes.text(
        1,
        0.86,
        "hatched: TRL, doing what the bar\nabove it does; the second of two\nwith freed memory kept",
        transform=axes.transAxes,
        ha="right",
        va="center",
        fontsize=11,
    )


@drawing(11)
def packing(figure: Figure, v: dict) -> None:
    """The row of tokens along both sides, and a dark square wherever one sees another."""
    layout, seen = v["row"].layout, v["seen"]
    axes = figure.subplots()
    T = len(layout.trees)
    names = [
        f"{'pcr'[branch]}{tree + 1}"
        for tree, branch in zip(layout.trees.tolist(), layout.branches.tolist(), strict=True)
    ]
    for query in range(T):
        for key in range(T):
            colour = ("0.55", DARK, DARK)[int(layout.branches[key])] if seen[query, key] else "white"
            axes.add_patch(box((key, query), 0.94, 0.94, facecolor=colour, edgecolor="0.85", linewidth=0.8))
    for i, name in enumerate(names):
        axes.text(i + 0.47, -0.35, name, ha="center", fontsize=12)
        axes.text(-0.35, i + 0.6, name, ha="right", fontsize=12)
    axes.text(T / 2, -1.35, "is looked at", ha="center", fontsize=13)
    axes.text(-1.9, T / 2, "looks", rotation=90, va="center", fontsize=13)
    axes.text(
        T + 0.8,
        2,
        "p  prompt (grey where it is seen)\nc  chosen response\nr  rejected response\n\n1, 2  which pair",
        va="top",
        fontsize=13,
    )
    axes.set_xlim(-2.2, T + 9)
    axes.set_ylim(T + 0.2, -1.8)
    axes.set_aspect("equal")
    axes.axis("off")


# --- 12. a model that was here before you


@drawing(12)
def new_rows(figure: Figure, v: dict) -> None:
    """Where the logit of a new token is among the others, and the probability that three new tokens take."""
    left, right = figure.subplots(1, 2)
    hidden, rows = v["hidden"][-1], v["old"] + v["down"]
    logits = rows @ hidden  # (V,)
    left.hist(logits.tolist(), bins=40, color="0.75")
    for name, style in (("mean of the others", "-"), ("zeros", DASHED)):
        logit = float(v["new_rows"][name](rows)[0] @ hidden)
        left.axvline(logit, color=DARK, linestyle=style, linewidth=2, label=name)
    left.set_xlabel("logit at the last position, all 10 lower than trained")
    left.set_ylabel("old tokens")
    left.set_title("a new token among the others")
    left.legend(loc="upper center")
    names = list(v["new_rows"])
    for i, (level, colour) in enumerate((("as trained", "0.75"), ("10 lower", DARK))):
        places = [place + 0.4 * i for place in range(len(names))]
        right.bar(places, [v["shares"][level, name] for name in names], 0.4, color=colour, label=level)
    right.axhline(3 / (v["V"] + 3), color=DARK, linestyle=DASHED)
    right.set_yscale("log")
    right.set_xticks([place + 0.2 for place in range(len(names))], names)
    right.set_ylabel("probability of three new tokens")
    right.set_title("what they take (dashed: the mean's bound)")
    right.legend()


# --- 13. inside the transformer


@drawing(13)
def transformer(figure: Figure, v: dict) -> None:
    """The way from ids to logits, and which position looks at which with what weight."""
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.15])
    stream = 2.0
    left.plot([stream, stream], [0.3, 9.9], color=DARK, linewidth=2)
    for y, words in (
        (0, "ids of tokens"),
        (1, "embedding + position"),
        (8.2, "LayerNorm"),
        (9.2, "product with every embedding"),
        (10.2, "logits, for the next token"),
    ):
        left.text(stream, y, words, ha="center", va="center", fontsize=14, bbox=FRAME)
    for bottom, words in ((2.2, "attention\n(looks back)"), (4.9, "MLP\n(each alone)")):
        side = stream + 2.3
        left.annotate("", (side, bottom), (stream, bottom), arrowprops=ARROW)
        left.text(side, bottom + 0.1, "LayerNorm", ha="center", va="center", fontsize=13, bbox=FRAME)
        left.text(side, bottom + 1.2, words, ha="center", va="center", fontsize=13, bbox=FRAME)
        left.annotate("", (stream + 0.25, bottom + 2.1), (side, bottom + 2.1), arrowprops=ARROW)
        left.plot([side, side], [bottom + 0.35, bottom + 0.7], color=DARK, linewidth=1.5)
        left.plot([side, side], [bottom + 1.7, bottom + 2.1], color=DARK, linewidth=1.5)
        left.text(stream, bottom + 2.1, "+", ha="center", va="center", fontsize=15, bbox=CIRCLE)
    left.add_patch(box((1.1, 1.75), 4.6, 5.75, facecolor="none", edgecolor="0.5", linestyle=DASHED))
    left.text(5.6, 7.6, "a block, repeated", ha="right", fontsize=13, color="0.3")
    left.set_xlim(-0.6, 6)
    left.set_ylim(-0.5, 10.7)
    left.axis("off")

    names, weights = v["names"], v["weights"]
    for query, row in enumerate(weights):
        for key in range(len(names)):
            shade = str(1 - row[key]) if key <= query else "white"
            edge = "0.7" if key <= query else "white"
            right.add_patch(box((key, query), 0.94, 0.94, facecolor=shade, edgecolor=edge, linewidth=0.8))
    for i, name in enumerate(names):
        right.text(i + 0.47, -0.2, name, ha="left", va="bottom", rotation=50, fontsize=12)
        right.text(-0.25, i + 0.5, name, ha="right", va="center", fontsize=12)
    right.text(
        len(names) * 0.62, 1.2, "one head of the first block:\nthe darker, the more weight", fontsize=13
    )
    right.set_xlim(-2.5, len(names) + 1)
    right.set_ylim(len(names) + 0.2, -2.4)
    right.set_aspect("equal")
    right.axis("off")


# --- 14. a model that looks


@drawing(14)
def captions(figure: Figure, v: dict) -> None:
    """Test pictures with the captions of four models."""
    draw_captions(figure, v["kept"]["prompts"], v["kept"]["captions"])


# --- 15. the tree


@drawing(15)
def tree(figure: Figure, v: dict) -> None:
    """The tree of the responses with the advantage of each word, and the GPT's log-ratios against them."""
    left, right = figure.subplots(1, 2, width_ratios=[1.7, 1])
    places, row = {}, 0
    for leaf in sorted(map(tuple, v["responses"])):  # from below, a row each
        places[leaf], row = (len(leaf), row), row + 1
    for s in sorted(v["V"].keys() - places.keys(), key=len, reverse=True):
        under = [places[sa][1] for sa in places if len(sa) == len(s) + 1 and sa[:-1] == s]
        places[s] = len(s), sum(under) / len(under)
    for s, (x, y) in places.items():
        if not s:
            continue
        (x0, y0), credit = places[s[:-1]], v["credit"][s]
        strong = credit < -1
        left.plot([x0, x0 + 0.3, x], [y0, y, y], color=DARK, linewidth=3.5 if strong else 1)
        text = f"{v['words'][s[-1]]} {credit:+.2f}".replace("+0.00", "0")
        left.text(x - 0.66, y + 0.12, text, fontsize=12, fontweight="bold" if strong else "normal")
    left.set_title("advantage of each word, where only tea tea is a fault")
    left.axis("off")
    right.plot([-3.2, 1], [-3.2, 1], color=LIGHT)
    right.plot(v["advantages"], v["ratios"], "o", color=DARK, markersize=7, markerfacecolor="white")
    right.set_xlabel("Q* - V*, by Bellman's equation")
    right.set_ylabel("β log(π / ref) of the GPT that DPO trained")
    right.set_title("all words of all responses to both prompts")


# --- 16. telling two models apart


@drawing(16)
def telling(figure: Figure, v: dict) -> None:
    """How many prompts are needed, and what three judges say in one order and in both."""
    left, right = figure.subplots(1, 2)
    for i, (name, colour) in enumerate((("different prompts", "0.75"), ("the same prompts", DARK))):
        values = [needed for (_, way), needed in v["needed"].items() if way == name]
        places = [place + 0.4 * i for place in range(len(values))]
        left.bar(places, values, 0.4, color=colour, label=name)
    spreads = list(dict.fromkeys(d for d, _ in v["needed"]))
    left.set_xticks([place + 0.2 for place in range(len(spreads))], [f"{d:g}" for d in spreads])
    left.set_xlabel("how much prompts differ in difficulty (deviation)")
    left.set_ylabel("prompts needed for two standard errors")
    left.legend(loc="upper left")
    rows = list(v["judged"].items())
    for i, (_, (shown, swapped)) in enumerate(rows):
        right.plot([shown, swapped], [i, i], color=LIGHT)
        right.plot(shown, i, "o", color=DARK, markersize=9, label="ours shown first" if i == 0 else None)
        right.plot(
            swapped,
            i,
            "o",
            color=DARK,
            markerfacecolor="white",
            markersize=9,
            label="both orders" if i == 0 else None,
        )
    right.axvline(0.5, color=DARK, linestyle=DASHED)
    right.set_yticks(
        range(len(rows)), [f"{ours} over {theirs},\n{taste}" for (ours, theirs, taste), _ in rows]
    )
    right.invert_yaxis()
    right.set_xlabel("win rate under the judge")
    right.legend(loc="lower right")


# --- 17. ask again


@drawing(17)
def coverage(figure: Figure, v: dict) -> None:
    """What a rare response costs in labels, and what the same labels are worth in rounds."""
    left, right = figure.subplots(1, 2)
    for (name, prices), style in zip(v["prices"].items(), ("-", DASHED, ":"), strict=True):
        left.plot(prices.keys(), prices.values(), "o", linestyle=style, color=DARK, linewidth=2, label=name)
    left.set(xscale="log", yscale="log", xlabel="the reference's probability of D")
    left.set_ylabel("labels for a shortfall of 1")
    left.invert_xaxis()
    left.legend(loc="upper left")
    left.set_title("who writes the pairs")
    for i, ((_, rounds), gaps) in enumerate(v["shortfalls"].items()):
        fill = DARK if rounds == 1 else "white"
        right.plot([i] * len(gaps), gaps, "o", color=DARK, markerfacecolor=fill, alpha=0.7)
    right.set_xticks(
        range(len(v["shortfalls"])), [f"{n} labels,\n{r} round{'s'[: r > 1]}" for n, r in v["shortfalls"]]
    )
    right.set_ylabel("J of the optimum minus J of the policy; one dot per draw")
    right.set_title("the same labels, at once or in rounds")


# --- 18. how many answers


@drawing(18)
def variety(figure: Figure, v: dict) -> None:
    """Reward against entropy on two ways from the reference, and what is left of five equals."""
    left, right = figure.subplots(1, 2)
    ref, reward = v["ref"], v["reward"]
    grid = torch.logspace(-1.3, 2, 200, dtype=torch.float64).tolist()
    ways = {
        "optima, β from 100 to 0.05": [optimal_policy(ref, reward, beta) for beta in grid],
        "the reference at temperatures from 1 to 0.05": [(ref / T).log_softmax(-1) for T in grid if T <= 1],
    }
    for (name, policies), style in zip(ways.items(), ("-", DASHED), strict=True):
        entropies = [v["entropy"](p) for p in policies]
        earned = [float(expected_reward(p, reward)) for p in policies]
        left.plot(entropies, earned, color=DARK, linestyle=style, linewidth=2, label=name)
    start = v["entropy"](ref), float(expected_reward(ref, reward))
    left.plot(*start, "s", color=DARK, markersize=9, label="the reference")
    left.invert_xaxis()
    left.set_xlabel("entropy, nats")
    left.set_ylabel("expected reward")
    left.legend(loc="center right")
    for ((name, who), path), style in zip(v["paths"].items(), ("-", "-.", DASHED, ":"), strict=True):
        steps = range(0, 10 * len(path), 10)
        right.plot(steps, path, color=DARK, linestyle=style, linewidth=2, label=f"{name}, labels of {who}")
    right.set_ylim(0.9, 5.2)
    right.set_xlabel("training steps")
    right.set_ylabel("exp(entropy) among five equals")
    right.legend(loc="lower left", bbox_to_anchor=(0.35, 0.25))


# --- 19. more of what


@drawing(19)
def scaling(figure: Figure, v: dict) -> None:
    """Shortfall against labels, one line per size and one dot per seed, and the slope that theory gives."""
    axes = figure.subplots()
    labels = [n for n in v["LABELS"] if n]
    for size, style, marker in zip(v["SIZES"], (":", DASHED, "-"), "s^o", strict=True):
        rows = [[of_seed[v["name_of"](size, n)] for n in labels] for of_seed in v["seeds"].values()]
        for row in rows:
            axes.plot(labels, row, marker, color="0.6", markersize=5)
        means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        axes.plot(labels, means, marker, linestyle=style, color=DARK, linewidth=2, label=size)
        start = means[0]
    axes.plot(labels, [start * labels[0] / n for n in labels], color=LIGHT, label="1/n")
    axes.set(xscale="log", yscale="log", xlabel="labels for each prompt")
    axes.set_ylabel("J of the optimum minus J of the policy; one grey mark per seed")
    axes.legend(loc="lower left")


# --- 20. the opponent


@drawing(20)
def opponent(figure: Figure, v: dict) -> None:
    """The two pipelines, and what each detail is worth."""
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    left.axis("off")
    left.set(xlim=(0, 10), ylim=(0, 10))
    places = {
        "preferences": (2, 9),
        "reward model": (2, 6.3),
        "responses\nof the policy": (2, 3.6),
        "scores, minus the\nprice of the KL": (2, 0.9),
        "preferences ": (7.6, 9),
        "policy": (7.6, 3.6),
    }
    for text, (x, y) in places.items():
        left.text(
            x, y, text.strip(), ha="center", va="center", bbox={"boxstyle": "round", "facecolor": "white"}
        )
    arrows = [((2, 8.4), (2, 6.9), "fit"), ((2, 5.7), (2, 4.5), "score"), ((2, 2.7), (2, 1.8), "")]
    arrows += [((7.6, 8.4), (7.6, 4.2), "fit, once")]
    for start, end, text in arrows:
        left.annotate("", end, start, arrowprops={"arrowstyle": "->"})
        left.text(start[0] + 0.2, (start[1] + end[1]) / 2, text, va="center")
    turn = {"arrowstyle": "->", "connectionstyle": "arc3,rad=-0.6"}
    left.annotate("", (3.7, 3.6), (3.9, 0.9), arrowprops={**turn, "connectionstyle": "arc3,rad=0.6"})
    left.text(5.2, 2.2, "learn,\nagain and\nagain", va="center")
    left.set_title("RLHF, and DPO")
    found = v["read_json"](v["KEPT"])["seeds"]
    names = list(next(iter(found.values())))
    for i, name in enumerate(names):
        right.plot(
            [of_seed[name] for of_seed in found.values()], [i] * len(found), "o", color=DARK, alpha=0.5
        )
    right.set_yticks(range(len(names)), names)
    right.invert_yaxis()
    right.set_xscale("log")
    right.set_xlabel("KL(π || π*) at the end, nats; one dot per seed")
    right.set_title("one detail left out")


# --- 21. what is true of it


@drawing(21)
def rivals(figure: Figure, v: dict) -> None:
    """True reward against KL divergence, in two worlds: DPO's line, and all that it is compared with. Crosses
    are standard errors over seeds.
    """
    by = "best of {} by the {}"
    ways: list[tuple[str, list[str], dict]] = [
        ("DPO", [f"DPO, beta {beta}" for beta in ("0.1", "0.2", "0.3", "1.0", "3.0")], {"marker": "o"}),
        ("RLOO, reward model", ["RLOO, beta 0.25", "RLOO, beta 0.5"], {"marker": "s", "linestyle": DASHED}),
        ("RLOO, true reward", ["RLOO on the true reward"], {"marker": "^"}),
        ("PPO, true reward", ["PPO on the true reward"], {"marker": "v"}),
        ("online DPO", ["online DPO"], {"marker": "*", "markersize": 15}),
        ("best of 4 and 16, reward model", [by.format(n, "reward model") for n in (4, 16)], {"marker": "x"}),
        ("best of 4 and 16, true reward", [by.format(n, "judge") for n in (4, 16)], {"marker": "+"}),
    ]
    panels = figure.subplots(1, 2)
    for axes, world, far in zip(panels, ("shop", "code"), (10.0, 4.0), strict=True):
        seeds = list(v["kept"].measured[f"shop_rivals.{world}_frontier"].values())

        def spread(what: str, seeds: list[dict] = seeds) -> tuple[float, float]:
            """The mean of a number over seeds, and its standard error."""
            values = [of_seed[what] for of_seed in seeds]
            return fmean(values), stdev(values) / math.sqrt(len(values))

        start = spread("reward, SFT")
        axes.plot(0, start[0], "o", color=DARK, markerfacecolor="white", markersize=11, zorder=5)
        axes.annotate("SFT", (0, start[0]), (12, -5), textcoords="offset points")
        for label, names, style in ways:
            at = [(*spread(f"kl, {name}"), *spread(f"reward, {name}")) for name in names]
            seen = sorted(point for point in at if point[0] < far)
            if label == "DPO":  # its line begins at the SFT model
                for name, (x, _, y, _) in zip(names, at, strict=True):
                    beta = float(name.removeprefix("DPO, beta "))
                    if x > far:
                        words = f"not shown: DPO, β = {beta:g},\n{x:.0f} nats, true reward {y:.1f}"
                        axes.text(0.98, 0.03, words, ha="right", transform=axes.transAxes)
                    elif beta != 0.2:  # which is too near 0.3
                        axes.annotate(f"β = {beta:g}", (x, y), (5, -17), textcoords="offset points")
                seen = [(0.0, 0.0, *start), *seen]
            x, x_error, y, y_error = zip(*seen, strict=True)
            grey = "best" in label
            look = {"color": "0.45" if grey else DARK, "linestyle": ":" if grey else "-", "markersize": 9}
            look |= {"markerfacecolor": DARK if label == "DPO" else "white", "capsize": 0, "elinewidth": 1}
            axes.errorbar(x, y, y_error, x_error, label=label, **(look | style))
        axes.set_xlabel("KL(policy || SFT), nats per response")
    panels[0].set_title("the toy shop")
    panels[1].set_title("programs: right, or worth nothing")
    panels[0].set_ylabel("true reward")
    panels[0].legend(loc="lower right")


# --- 22. one thing of your own


@drawing(22)
def pieces(figure: Figure, v: dict) -> None:
    """How far from the optimum training ends, with right and with wrong pieces."""
    axes = figure.subplots()
    names, gaps = list(v["gaps"]), list(v["gaps"].values())
    axes.barh(range(len(names)), gaps, color=["tab:green", *["tab:red"] * (len(names) - 1)])
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("KL(π* || learned) after 300 steps, nats")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tutorials.pictures", description="Draw a chapter's pictures.", allow_abbrev=False
    )
    parser.add_argument("chapter", type=int, nargs="?", help="its number (default: all)")
    settings = parser.parse_args()
    new_figure()  # where matplotlib is missing, say so before the chapter runs
    for chapter in [settings.chapter] if settings.chapter is not None else chapter_paths():
        for step in run_chapter(find_chapter(chapter), partial(draw, chapter, FOLDER)):
            if step.code.text.startswith(PICTURES) and step.printed:
                print(step.printed, flush=True)


if __name__ == "__main__":
    run_command(main)
