"""The pictures of chapters 1 to 6. Each function draws one: it is given an empty slide and the chapter's
variables at the place where the chapter shows the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mini_dpo.exact import PROMPTS, WORDS
from mini_dpo.plot.paper import DARK, DASHED, LIGHT
from mini_dpo.plot.runs import draw_run
from mini_dpo.theory.bradley_terry import expected_reward, kl, optimal_policy
from tutorials.drawings.slide import ARROW, FRAME, WHITE, box, chain, drawing
from tutorials.kept import over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
