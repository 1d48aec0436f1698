"""The pictures of chapters 18 to 22. Each function draws one: it is given an empty slide and the chapter's
variables at the place where the chapter shows the command.
"""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import torch

from mini_dpo.plot.paper import DARK, DASHED, LIGHT
from mini_dpo.theory.bradley_terry import expected_reward, optimal_policy
from tutorials.drawings.slide import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
