"""The pictures of chapters 7 to 11. Each function draws one: it is given an empty slide and the chapter's
variables at the place where the chapter shows the command.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from mini_dpo.bench.rows import RUNGS
from mini_dpo.bench.trl import TRL_ROWS
from mini_dpo.losses import LOSSES
from mini_dpo.plot.numbers import curve, in_units_of_the_start
from mini_dpo.plot.paper import DARK, DASHED, LIGHT, grid
from mini_dpo.theory.bradley_terry import expected_reward, kl
from tutorials.drawings.slide import ARROW, FRAME, box, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# --- 7. choosing beta, and stopping


def learned_and_true(
    axes: Axes, family: list[torch.Tensor], start: torch.Tensor, slope: float, v: dict, label: str
) -> None:
    """The reward that policies seem to have, if a spoon were worth `slope` and both rewards were equal at the
    start, and the reward that they have, against their divergence from the start.
    """
    reward = lambda policy, of: float(expected_reward(policy, v[of]))  # noqa: E731
    distances = [float(kl(p, start)) for p in family]
    learned = [
        reward(start, "gold") + slope * (reward(p, "spoons") - reward(start, "spoons")) for p in family
    ]
    axes.plot(distances, learned, color=DARK, linestyle=DASHED, linewidth=2, label=label)
    axes.plot(distances, [reward(p, "gold") for p in family], color=DARK, linewidth=2.5, label="true reward")


@drawing(7)
def too_far(figure: Figure, v: dict) -> None:
    """Learned and true reward along the divergence; held-out loss and true reward along the training
    steps.
    """
    panels = figure.subplot_mosaic([["left", "loss"], ["left", "reward"]])
    left = panels["left"]
    ref = v["ref"]
    slope = v["results"][1.0][2]
    family = [
        v["policy_of"](slope / beta) for beta in torch.logspace(1, -1, 100, dtype=torch.float64).tolist()
    ]
    learned_and_true(left, family, ref, slope, v, "learned reward (from the same start)")
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

    spoons, start = v["spoons"], v["start"]
    family = [(start + theta * spoons).log_softmax(-1) for theta in torch.linspace(0, 6, 60).tolist()]
    slope = float((v["offline"][1.0] - start).diff()[0])  # what the first round learns a spoon to be worth
    learned_and_true(too_far, family, start, slope, v, "learned reward")
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
