"""The page, as a browser and as gradio's own client see it."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import serving
from browser import WIDTHS, browser
from instil.core.errors import DataError
from instil.evaluate.judgement import Judgements, Pair
from instil.serve.config import ModelSpec
from instil.serve.engines.base import Writer
from instil.serve.jobs import Job
from instil.serve.page.words import share_alike, word_diff
from instil.serve.service import Service


@dataclass(frozen=True, slots=True)
class Shown:
    """A page that is open, and what it is about."""

    url: str
    service: Service
    judgements: Judgements


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    pytest.importorskip("gradio")
    from instil.serve.page.page import Around, open_page

    root = tmp_path_factory.mktemp("page")
    specs = []
    for seed, name in enumerate(("student", "teacher")):
        serving.write_model(root / name, seed=seed)
        specs.append(ModelSpec(name=name, ref=str(root / name), max_source_tokens=40, max_new_tokens=8))
    pairs = [
        Pair(
            record=str(n), source=f"text {n}", reference="", first="student", second="teacher",
            first_output=f"mine {n}", second_output=f"yours {n}",
        )
        for n in range(2)
    ]  # fmt: skip
    around = Around(
        title="A <b>run</b>", examples=("an example & more", "another"), report="<h1>The report</h1>",
        plan=lambda typed: (f"plan for {typed}", "<svg xmlns='http://www.w3.org/2000/svg'></svg>"),
        judgements=Judgements.create(root / "judged.sqlite", pairs),
    )  # fmt: skip
    service = Service(serving.config_of(*specs), say=lambda _: None)
    url, blocks = open_page(service, around, host="127.0.0.1", port=0)
    assert around.judgements is not None
    yield Shown(url, service, around.judgements)
    blocks.close()
    service.close()


def test_a_diff_shows_what_came_and_what_went() -> None:
    assert word_diff("a fast tool", "a very fast <tool>") == (
        "a<ins> very</ins> fast <ins>&lt;</ins>tool<ins>&gt;</ins>"
    )  # fmt: skip
    assert word_diff("one two", "one") == "one<del> two</del>"
    assert share_alike("a b", "a b") == share_alike("", "") == 1.0


def test_the_gradio_client_writes_and_compares(page: Shown) -> None:
    from gradio_client import Client

    client = Client(page.url, verbose=False)
    text = client.predict("student", "hello", 5, api_name="/write")
    model = page.service.models["student"]
    job = Job(model.source_ids("hello"), 5)
    model.submit([job])
    assert text == job.future.result(20).text.strip()
    both = client.predict("hello", ["student", "teacher"], 5, api_name="/compare")
    assert both.count('<article class="card">') == 2 and "tokens/s" in both
    assert "plan for 5k" in client.predict("5k", api_name="/plan")
    with pytest.raises(Exception, match="no input yet"):
        client.predict("student", "  ", 5, api_name="/write")


def test_a_file_goes_in_and_one_comes_back(page: Shown, tmp_path: Path) -> None:
    from gradio_client import Client, handle_file

    path = tmp_path / "texts.jsonl"
    texts = ["one", "two words", "x" * 300]
    path.write_text("".join(json.dumps({"source": text}) + "\n" for text in texts))
    _, answers, table = Client(page.url, verbose=False).predict(
        handle_file(path), ["student", "teacher"], api_name="/batch"
    )
    found = answers["value"] if isinstance(answers, dict) else answers
    rows = [json.loads(line) for line in Path(found).read_text().splitlines()]
    assert [row["source"] for row in rows] == texts
    assert all(set(row) == {"source", "student", "teacher"} for row in rows)
    assert table is not None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "holds no texts"),
        ("a.txt", b"\xff\xfe\x00", "no UTF-8"),
        ("a.csv", b"wrong\nx\n", "none of the columns"),
        ("a.csv", b"source\n" + b"x" * 131_073 + b"\n", r"cannot be read as CSV \(field larger .*\); save it as JSONL"),
        ("a.jsonl", b"{broken\n", "line 1 is no JSON"),
        ("a.txt", b"x\n" * 1001, "at most 1,000"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    from instil.serve.page.files import read_texts

    (tmp_path / name).write_bytes(content)
    limit = csv.field_size_limit(131_072)  # The standard library's own, which other packages raise for all.
    try:
        with pytest.raises(DataError, match=said):
            read_texts(tmp_path / name)
    finally:
        csv.field_size_limit(limit)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, name: str) -> None:
    from instil.serve.page.files import read_texts

    texts = ["one\u2028and on", "two\u0085and on", "three"]
    lines = {
        "a.jsonl": [json.dumps({"source": text}, ensure_ascii=False) for text in texts],
        "a.csv": ["source", *texts],
        "a.txt": texts,
    }
    (tmp_path / name).write_bytes("\r\n".join([*lines[name], ""]).encode())
    assert read_texts(tmp_path / name) == texts


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Any]:
    with browser() as opened:
        yield opened


def open_tab(tab: Any, name: str) -> None:
    """Click on a tab of the page, which stands in a menu where the screen is too narrow."""
    tab.get_by_role("tab").first.wait_for()
    if not tab.get_by_role("tab", name=name).count():
        tab.locator(".overflow-menu button").first.click()
        tab.locator(".overflow-dropdown button", has_text=name).first.click()
    else:
        tab.get_by_role("tab", name=name).click()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_a_person_compares_judges_and_reads(page: Shown, browser: Any, tmp_path: Path, width: int, height: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": height})
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(page.url)
    tab.get_by_role("button", name="Write", exact=True).click()
    tab.wait_for_selector(".notice")
    assert "no input yet" in tab.inner_text("#side-by-side")
    tab.get_by_text("an example & more").first.click()
    tab.get_by_role("button", name="Write", exact=True).click()
    tab.wait_for_selector("#side-by-side details, #side-by-side .alike")
    assert tab.locator("#side-by-side .card").count() == 2
    tab.locator("textarea").first.fill("<script>alert(1)</script> " + "long " * 40)
    tab.get_by_role("button", name="Write", exact=True).click()
    tab.wait_for_selector(".remark >> text=were cut off")
    assert tab.locator("h1 b").count() == 0, "a title is a text, not HTML"
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.screenshot(path=str(tmp_path / f"{width}.png"), full_page=True)
    open_tab(tab, "Judge")
    tab.get_by_label("Your name").fill(f"judge {width}")
    tab.get_by_role("button", name="Begin").click()
    tab.get_by_role("button", name="Left is better").click()
    tab.wait_for_selector("small >> text=2 of 2")
    shown = tab.locator(".pair").inner_text()
    assert "student" not in shown and "teacher" not in shown
    tab.get_by_role("button", name="No difference").click()
    tab.wait_for_selector("text=All 2 pairs are judged")
    answers = [answer.choice for answer in page.judgements.answers() if answer.judge == f"judge {width}"]
    assert answers == ["left", "tie"]
    open_tab(tab, "Report")
    assert tab.frame_locator("iframe").locator("h1").inner_text() == "The report"
    assert faults == []
    tab.close()


def test_stop_ends_the_writing_and_the_page_goes_on(page: Shown, browser: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models that take their time: 80 tokens of a tenth of a second."""
    taken: list[int] = []
    swift = Writer.take

    def slow(self: Writer, token: int) -> bool:
        time.sleep(0.1)
        taken.append(token)
        return swift(self, token)

    monkeypatch.setattr(Writer, "take", slow)
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(page.url)
    tab.locator("input[type=number]").first.fill("80")
    tab.locator("textarea").first.fill("one two three")
    tab.get_by_role("button", name="Write", exact=True).click()
    tab.wait_for_selector("#side-by-side .caret")
    tab.get_by_role("button", name="Stop", exact=True).click()
    # The one that writes is told to end, and the other one's turn does not come.
    seen = -1
    while len(taken) > seen:
        seen = len(taken)
        time.sleep(1)
    assert 1 <= len(taken) < 60
    monkeypatch.undo()
    tab.get_by_role("button", name="Write", exact=True).click()
    tab.wait_for_selector("#side-by-side details, #side-by-side .alike")
    tab.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_a_person_sends_a_file_and_asks_for_the_plan(page: Shown, browser: Any, tmp_path: Path, width: int) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one\ntwo words\n")
    tab = browser.new_page(viewport={"width": width, "height": 844})
    faults: list[str] = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.goto(page.url)
    open_tab(tab, "Batch")
    tab.get_by_role("button", name="Write all").click()
    tab.wait_for_selector("text=Choose a file and at least one model.")
    tab.locator("input[type=file]").first.set_input_files(str(path))
    tab.wait_for_selector("[aria-label='texts.txt']")
    tab.get_by_role("button", name="Write all").click()
    tab.wait_for_selector("text=2 texts done.")
    link = tab.locator("td.download a").last.evaluate("link => link.href")
    rows = [json.loads(line) for line in tab.request.get(link).text().splitlines()]
    assert [row["source"] for row in rows] == ["one", "two words"]
    open_tab(tab, "Plan")
    assert tab.locator(".plan pre").inner_text() == "plan for 10k"
    tab.get_by_label("Requests a day").fill("5k")
    tab.get_by_role("button", name="Count again").click()
    tab.wait_for_selector(".plan >> text=plan for 5k")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert faults == []
    tab.close()
