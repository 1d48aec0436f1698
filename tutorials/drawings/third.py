"""The pictures of chapters 12 to 17. Each function draws one: it is given an empty slide and the chapter's
variables at the place where the chapter shows the command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mini_dpo.plot.paper import DARK, DASHED, LIGHT
from mini_dpo.plot.pictures import draw_captions
from tutorials.drawings.slide import ARROW, CIRCLE, FRAME, box, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
