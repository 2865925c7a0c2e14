"""HTML and SVG, safe by construction: every string is escaped unless it is `Markup` already."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

# Control characters and lone surrogates are no text: they would make the page invalid or impossible to encode.
_NOT_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_WITHOUT_END = frozenset({"meta", "br"})


class Markup(str):
    """Text that is HTML already and stands as it is."""

    __slots__ = ()


Child: TypeAlias = "str | Iterable[Child] | None"


def escaped(text: str) -> Markup:
    """`text` from outside as HTML text, fit for quoted attributes too."""
    return Markup(html.escape(_NOT_TEXT.sub("\N{REPLACEMENT CHARACTER}", text)))


def joined(*children: Child) -> Markup:
    """`children` one after the other; None is left out, plain strings are escaped."""
    return Markup("".join(_written(child) for child in children))


def _written(child: Child) -> str:
    if child is None or isinstance(child, Markup):
        return child or ""
    return escaped(child) if isinstance(child, str) else joined(*child)


def element(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """`<name attributes>children</name>`. In attributes `class_` is class and `stroke_width` is stroke-width;
    True stands without a value, None and False are left out, floats are rounded to hundredths."""
    opened = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Markup(opened if name in _WITHOUT_END else f"{opened}{joined(*children)}</{name}>")


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    key = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {key}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {key}="{escaped(text)}"'
