"""What a run is and what came out: the heading, the numbers that matter most, the closing table."""

from __future__ import annotations

from mini_dpo.evaluation.table import closing_remarks, closing_rows, heading, number
from mini_dpo.progress import clock
from mini_dpo.report.markup import Markup, element, section
from mini_dpo.report.reading import Run

CLEAR = 2  # standard errors from which on a change counts as one


def figures(value: float | None, form: str = "{:.2f}") -> str:
    """A number of the summary, as in the closing table but with a true minus sign."""
    return number(value, form, 11).replace("-", "\N{MINUS SIGN}")


def headline(run: Run) -> str:
    """What this run is and what came out, in a sentence."""
    dpo, name = run.summary.get("dpo", {}), heading(run.loss or "sft")
    what = f"{name} on {run.data}"
    if not run.finished:
        return f"{what}: this run is not finished"
    if run.loss is None:
        return f"{what}: {sft_result(run.summary['sft'])}"
    start = run.summary.get("start", "SFT")
    if dpo.get("reward_gain") is not None:
        before, after = (figures(run.summary[m]["reward"]) for m in ("sft", "dpo"))
        went = changed(dpo["reward_gain"], dpo.get("reward_gain_error"))
        rate = figures(dpo.get("win_rate"), "{:.3f}")
        return f"{what}: the true reward {went}, from {before} to {after}, and the win rate is {rate}"
    kl = figures(dpo.get("kl"))
    if "reward_accuracy" in dpo:
        right = figures(dpo["reward_accuracy"], "{:.3f}")
        return f"{what}: its reward agrees with {right} of the held-out labels, {kl} nats away from {start}"
    return f"{what}: {kl} nats away from {start}"


def sft_result(sft: dict) -> str:
    """What SFT alone has reached."""
    reached = [
        f"{words} {figures(sft[key])}"
        for key, words in (("perplexity", "perplexity on held-out responses"), ("reward", "true reward"))
        if key in sft
    ]
    return ", ".join(reached) or "a model that answers"


def changed(gain: float, error: float | None) -> str:
    """Whether a number rose or fell; neither if its change is within its error."""
    if abs(gain) <= CLEAR * (error or 0):
        return "did not clearly change"
    return "rose" if gain > 0 else "fell"


def lead(run: Run) -> list[Markup]:
    """The paragraphs below the heading."""
    steps = {
        stage: max((row["step"] for row in run.rows if row["stage"] == stage), default=0)
        for stage in ("sft", "dpo")
    }
    did = [
        f"{steps['sft']:,} steps of SFT, which teaches a model to answer," if steps["sft"] else "",
        f"{steps['dpo']:,} steps of preference training ({run.loss}), which teaches it what people chose"
        if steps["dpo"]
        else "",
    ]
    took = f" It took {clock(run.summary['seconds'])}." if "seconds" in run.summary else ""
    lines = [element("p", f"This run did {' and then '.join(filter(None, did)).rstrip(',')}.{took}")]
    if said := what_is_missing(run):
        lines.append(element("p", said, class_="note" if run.finished else "warning"))
    return lines


def what_is_missing(run: Run) -> str:
    """What the page of this run cannot show, and why; "" if nothing is missing."""
    if not run.finished:
        what = "The closing table is not complete" if run.summary else "Nothing is measured yet"
        return f"{what}; --resume goes on with the run."
    if run.loss is None:
        return "This is SFT alone: nothing is compared, and no token has a reward."
    return "" if run.words else "No held-out pair was measured token by token."


CARDS = [  # of the policy: key, what it is, its form
    ("reward", "true reward", "{:.2f}"),
    ("win_rate", "win rate, ties count half", "{:.3f}"),
    ("reward_accuracy", "of held-out labels agree with the reward", "{:.3f}"),
    ("kl", "nats per response, KL from the reference", "{:.2f}"),
]


def cards(run: Run) -> Markup:
    """The numbers that matter most, large, each with its standard error."""
    column = run.summary.get("dpo") or {}
    return element("div", *(card(column, *c) for c in CARDS if column.get(c[0]) is not None), class_="cards")


def card(column: dict, key: str, what: str, form: str) -> Markup:
    """One number and its standard error."""
    error = column.get(f"{key}_error")
    spread = [] if error is None else [element("small", f" ± {figures(error, form)}")]
    return element("div", element("b", figures(column[key], form), *spread), element("span", what))


def results(run: Run) -> list[Markup]:
    """The closing table, as far as it is measured."""
    if "sft" not in run.summary:
        return []
    (first, *headings), *rows = closing_rows(run.summary)
    head = element(
        "tr", element("th", first, scope="col"), *(element("th", h.strip(), scope="col") for h in headings)
    )
    lines = [
        element(
            "tr",
            element("th", label.strip(), scope="row", class_="part" if label.startswith(" ") else None),
            *(element("td", cell.strip().replace("-", "\N{MINUS SIGN}")) for cell in cells),
        )
        for label, *cells in rows
    ]
    table = element("table", element("thead", head), element("tbody", *lines))
    remarks = element("p", " ".join(closing_remarks(run.summary)), class_="note")
    return [section("What came out", element("div", table, class_="wide"), remarks)]
