"""The report as a person sees it, on a phone and on a desk."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from browser import WIDTHS, browser, picture, sticking_out
from instil.evaluate.slices import Slice
from test_report import a_comparison, a_report


def _slices() -> tuple[Slice, ...]:
    one, other = (a_comparison()[name].rougeL for name in ("student", "teacher"))
    kinds = ("words of the source", "words of the reference", "new words in the reference, %")
    return tuple(
        Slice(kind=kind, low=10 * part, high=10 * part + 9, n=30, student=one, teacher=other)
        for kind in kinds
        for part in range(4)
    )


def test_nothing_sticks_out_and_every_chart_is_drawn(tmp_path: Path) -> None:
    a_report(tmp_path, a_comparison(slices=_slices()), further={"titles": a_comparison()})
    with browser() as opened:
        for width in WIDTHS:
            said: list[str] = []
            page = opened.new_page(viewport={"width": width, "height": 900})
            page.on("console", lambda message, said=said: said.append(message.text))
            page.goto((tmp_path / "report.html").as_uri())
            assert sticking_out(page) == []
            assert page.evaluate("() => document.documentElement.scrollWidth") <= width
            charts = page.locator("svg.chart")
            assert charts.count() == 8
            for number in range(charts.count()):
                box = charts.nth(number).bounding_box()
                assert box is not None and box["width"] > 300 and box["height"] > 200
            assert said == []
            with Image.open(picture(page, tmp_path / f"{width}.png")) as shot:
                drawn = shot.convert("L")
                assert shot.width == width and len(set(drawn.resize((200, 400)).tobytes())) > 50
