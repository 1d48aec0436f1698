"""HTML of elements. A text becomes markup only here, and always escaped: no data can be taken for a tag."""

from __future__ import annotations

import html
from collections.abc import Iterable

from mini_dpo.cli import ESCAPES


class Markup(str):
    """A text that is HTML already."""


def safe(text: str) -> Markup:
    """A text of any origin as HTML. Control characters, marks that turn the direction of a line, and halves
    of surrogate pairs are written as escapes, as on the terminal.
    """
    written = text.translate(ESCAPES).encode("utf-8", "backslashreplace").decode()
    return Markup(html.escape(written))


def element(name: str, *inside: str, **attributes: object) -> Markup:
    """An element and what is in it: Markup as it is, any other text escaped. An attribute `stroke_width`
    becomes stroke-width, `class_` becomes class; None leaves an attribute out.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{safe(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{said}>{joined(inside)}</{name}>")


def joined(parts: Iterable[str], between: str = "") -> Markup:
    """Several parts one after the other, each escaped unless it is Markup."""
    return Markup(between.join(part if isinstance(part, Markup) else safe(part) for part in parts))


def section(title: str, *inside: str) -> Markup:
    """A part of the page."""
    return element("section", element("h2", title), *inside)


def told_prompt(prompt: object) -> Markup:
    """A prompt: a text, or turns {"role", "content"}, a line each."""
    if isinstance(prompt, str):
        return element("p", prompt, class_="prompt", dir="auto")
    turns = prompt if isinstance(prompt, list) else []
    lines = [
        element("span", element("b", str(turn["role"])), " ", str(turn["content"]), dir="auto")
        for turn in turns
    ]
    return element("p", joined(lines, between="\n"), class_="prompt")
