"""A page in a real browser, headless Chromium: how it looks, and whether anything sticks out of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (390, 1280)
_OVERFLOW = """() => {
    const page = document.documentElement.clientWidth;
    const inside = (element) => element.closest('.scrolls, pre') !== null;
    return [...document.querySelectorAll('body *')]
        .filter((element) => !inside(element) && element.getBoundingClientRect().right > page + 1)
        .map((element) => `${element.tagName}.${element.getAttribute('class') ?? ''}`);
}"""


@contextmanager
def browser() -> Iterator[Any]:
    """A browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


def sticking_out(page: Any) -> list[str]:
    """Elements that reach over the window's right edge, but for those within something that scrolls."""
    return page.evaluate(_OVERFLOW)


def picture(page: Any, path: Path) -> Path:
    """A screenshot of the whole page."""
    page.screenshot(path=str(path), full_page=True)
    return path
