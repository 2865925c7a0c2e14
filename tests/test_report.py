"""The report as a whole: what it says, that it needs nothing else, that data cannot become code in it."""

import html
import json
import math
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from instil.core.errors import StorageError
from instil.evaluate import latency, significance
from instil.evaluate.examples import Example, Examples
from instil.evaluate.metric import Score
from instil.evaluate.results import Comparison, SystemResult
from instil.run.report import axes, charts, verdict
from instil.run.report.markup import Markup, element
from instil.run.report.report import write_report
from instil.run.report.terminal import task_table, terminal_table
from instil.run.report.verdict import number

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)> & \"quotes\" \x00\ud800"
SIGNATURE = "rougeL|nrefs:1|case:lc|stem:yes|tok:rouge-score|version:0.1.2"
ITEMS, TIMED = 120, 40
DRAWS = {"seed": 0, "resamples": 300}
SOURCE = (
    "FFindex is a very simple index and database for huge amounts of small files. The files are stored concatenated in "
    "one big data file, separated by a zero byte. A second file contains a plain text index, giving name, offset and "
    "length of the small files. The lookup is currently done with a binary search on an array made from the index. "
    "This package holds the tools for building and reading such an index on the command line."
)
SAID = {
    "teacher": "simple index and database for huge numbers of small files",
    "student": "simple database for large amounts of small files",
    "student_without_teacher": "simple and simple index of files",
    "lead1": "FFindex is a very simple index and database for huge amounts of small files.",
}


def _scores(mean: float, seed: int) -> np.ndarray:
    shared = np.random.default_rng(0).normal(0, 18, ITEMS)
    own = np.random.default_rng(seed).normal(0, 6, ITEMS)
    return np.clip(mean + shared + own - shared.mean() - own.mean(), 0, 100)


def _times(middle: float, seed: int) -> list[float]:
    shared = np.random.default_rng(7).lognormal(0, 0.25, TIMED)
    return list(middle * shared * np.random.default_rng(seed).lognormal(0, 0.04, TIMED))


@cache
def _system(name: str, mean: float, middle: float, parameters: int, seed: int) -> SystemResult:
    values, teachers, against = _scores(mean, seed), _scores(34.4, 1), _scores(30.4, 3)
    found: dict[str, Any] = {}
    if name != "teacher":
        found["retention"] = significance.ratio_interval(values, teachers, **DRAWS)
        found["speedup"] = latency.speedup(_times(910, 1), _times(middle, seed), seed=0)
    if name != "student_without_teacher":
        found["difference"] = significance.difference_interval(values, against, **DRAWS)
        found["p_value"] = significance.paired_p_value(values, against, seed=0, rounds=500)
    return SystemResult(
        name=name, n=ITEMS, parameters=parameters, bytes=2 * parameters, signature=SIGNATURE,
        rouge1=significance.mean_interval(values * 1.09, **DRAWS),
        rouge2=significance.mean_interval(values * 0.5, **DRAWS),
        rougeL=significance.mean_interval(values, **DRAWS),
        rougeL_histogram=tuple(np.histogram(values, bins=20, range=(0, 100))[0].tolist()),
        output_words=8.4, empty_outputs=0, throughput=ITEMS / 31,
        latency=latency.latency_of(_times(middle, seed), seed=0),
        peak_memory_bytes=2 * parameters + 90_000_000 if parameters else None, **found,
    )  # fmt: skip


def _example(name: str, scores: list[float], source: str = SOURCE) -> Example:
    outputs = dict(SAID)
    return Example(
        id=name, source=source, targets=("simple index/database for huge amounts of small files",), outputs=outputs,
        rougeL=dict(zip(outputs, scores, strict=True)),
    )  # fmt: skip


def a_comparison(quality: float = 33.0, **changes: Any) -> Comparison:
    """Of 120 made-up items: teacher 34.4, without the teacher 30.4, lead-1 25.5, and the student as asked."""
    systems = (
        _system("teacher", 34.4, 910, 134_515_008, 1),
        _system("student", quality, 505, 92_400_000, 2),
        _system("student_without_teacher", 30.4, 508, 92_400_000, 3),
        _system("lead1", 25.5, 0.04, 0, 4),
    )
    examples = Examples(
        drawn=(_example("ffindex", [88, 71, 40, 62]), _example("opencu", [20, 33, 0, 8], "Short source.")),
        worst=(_example("japa", [40, 0, 10, 5]),),
        best=(_example("bibtex2html", [100, 100, 70, 20]),),
    )
    given: dict[str, Any] = {
        "systems": systems, "examples": examples, "n": ITEMS, "signature": SIGNATURE, "seed": 0, "resamples": 2000,
        "teacher": "teacher", "student": "student", "against": "student_without_teacher",
        "max_new_tokens": 32, "batch_size": 16,
    }  # fmt: skip
    return Comparison(**given | changes)


def _history(end: float, minutes: float, seed: int) -> list[dict[str, float | None]]:
    noise = np.random.default_rng(seed).normal(0, 0.16, 320)
    return [
        {
            "step": step + 1, "elapsed_s": (step + 1) * minutes * 60 / 320, "learning_rate": 3e-4, "rows": 300 * step,
            "hard": end + 3.2 * math.exp(-step / 22) + 0.6 * math.exp(-step / 120) + noise[step],
            "soft": 0.8, "loss": 2.0, "validation_loss": end + 0.15 + math.exp(-step / 70) if step % 80 == 79 else None,
        }
        for step in range(320)
    ]  # fmt: skip


CURVES = {
    "teacher": _history(2.1, 130, 1),
    "student": _history(2.55, 5, 2),
    "student_without_teacher": _history(2.72, 5, 3),
}
FACTS = [
    ("Recipe", "recipes/quickstart.yaml"),
    ("Seed", "0"),
    ("Wall times", "label 2 min 10 s\nstudent 5 min 00 s\nevaluate 1 min 40 s"),
    ("Data", "12,806 pairs read, 12,641 kept: 102 near duplicates, 63 leaked into another split"),
    ("Truncation", "prompts: 214 of 12,641 (1.7%) cut to 384 tokens; targets: none"),
]
COMMAND = "instil init my-recipe.yaml --data my-pairs.jsonl"


def a_report(folder: Path, comparison: Comparison | None = None, **changes: Any) -> str:
    """The page's text."""
    given: dict[str, Any] = {
        "title": "quickstart: a smaller SmolLM2-135M for synopses", "comparison": comparison or a_comparison(),
        "curves": CURVES, "facts": FACTS, "next_command": COMMAND,
    }  # fmt: skip
    path = write_report(folder, **given | changes)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf8")


class _Outline(HTMLParser):
    """Opened and closed elements, and everything that could reach outside or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.reaching: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.ids += [value or "" for key, value in attrs if key == "id"]
        self.reaching += [key for key, _ in attrs if key in ("src", "href", "srcset", "style") or key.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def _outline(page: str) -> _Outline:
    outline = _Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    return outline


def test_whole_report(tmp_path: Path) -> None:
    page = a_report(tmp_path)
    outline = _outline(page)
    words = " ".join(outline.words)
    for part in (
        "keeps 96", "How they learned", "How the teacher learned", "Latency against quality", "Drawn at random",
        "12,641 kept", COMMAND, SIGNATURE, "student without teacher", "percentile bootstrap",
    ):  # fmt: skip
        assert part in words, part
    assert words.count("Seed") == 1, "a fact that was given is not added again"
    assert outline.names.count("svg") > 4
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert len(page) < 300_000


def test_further_metrics_stand_on_the_page(tmp_path: Path) -> None:
    score = Score(
        value=41.26, low=39.0, high=43.9, n=ITEMS, unit="%", better="higher", signature="chrF2", difference=None,
        p_value=0.002, p_adjusted=0.004,
    )  # fmt: skip
    systems = tuple(
        one.model_copy(update={"metrics": {"chrf": score}}) if one.name == "student" else one
        for one in a_comparison().systems
    )
    words = " ".join(_outline(a_report(tmp_path, a_comparison(systems=systems))).words)
    assert "More metrics" in words and "chrf, % ↑" in words and "41.3*" in words and "39.0 to 43.9" in words


def test_it_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = a_report(tmp_path)
    outline = _outline(page)
    assert outline.reaching == []
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(outline.names)
    assert not re.search(r"https?:|@import|url\((?!#)", page)
    assert "default-src 'none'" in html.unescape(page)


def test_data_cannot_become_code(tmp_path: Path) -> None:
    example = Example(
        id=EVIL, source=EVIL * 20, targets=(EVIL,), outputs={"student": EVIL, "teacher": "", EVIL: EVIL},
        rougeL={"student": 1.0, "teacher": 0.0, EVIL: 2.0},
    )  # fmt: skip
    first, *others = a_comparison().systems
    comparison = a_comparison(
        systems=(first, *others, first.model_copy(update={"name": EVIL})), signature=EVIL, remarks=(EVIL,),
        hardware={EVIL: EVIL}, examples=Examples(worst=(example,)),
    )  # fmt: skip
    page = a_report(
        tmp_path, comparison, title=EVIL, facts=[(EVIL, EVIL)], next_command=EVIL, curves={EVIL: CURVES["student"]}
    )
    outline = _outline(page)
    assert "script" not in outline.names
    assert "img" not in outline.names
    assert outline.reaching == []
    assert "alert('x')" in " ".join(outline.words)


def test_drawings_are_well_formed_and_speak(tmp_path: Path) -> None:
    drawings = re.findall(r'<svg viewBox="0 0 480 320".*?</svg>', a_report(tmp_path), re.DOTALL)
    assert len(drawings) == 5
    for drawing in drawings:
        tree = ElementTree.fromstring(drawing)
        title, description = tree.find("title"), tree.find("desc")
        assert tree.get("role") == "img"
        assert title is not None and title.text
        assert description is not None and description.text
        assert tree.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
        assert "nan" not in drawing and "inf" not in drawing


@pytest.mark.parametrize(
    ("student", "words", "tone"),
    [
        (33.0, "It is better than “student without teacher” by 2.", "gained"),
        (30.6, "within chance: this run does not show that the teacher helped", "within chance"),
        (28.0, "It is worse than “student without teacher” by 2.", "lost"),
    ],
)
def test_the_headline_is_honest(student: float, words: str, tone: str) -> None:
    comparison = a_comparison(student)
    assert words in " ".join(verdict.headline(comparison))
    assert verdict.key_figures(comparison)[-1].tone == tone


def test_a_student_below_lead1_or_above_its_teacher() -> None:
    assert "not above “lead1”, which needs no model" in " ".join(verdict.headline(a_comparison(20.0)))
    assert "intervals overlap" in " ".join(verdict.headline(a_comparison(27.0)))
    assert verdict.headline(a_comparison(40.0))[0].startswith("The student exceeds its teacher")


def test_no_word_about_the_teacher_where_it_is_not_at_stake() -> None:
    systems = tuple(
        one.model_copy(update={"name": "older"}) if one.name == "student_without_teacher" else one
        for one in a_comparison().systems
    )
    sentence = verdict.headline(a_comparison(systems=systems, against="older"))[1]
    assert sentence.startswith("It is better than “older”") and sentence.endswith(").")


def test_a_slow_student_is_called_slow() -> None:
    systems = (_system("teacher", 34.4, 910, 134_515_008, 1), _system("student", 33, 1200, 134_515_008, 2))
    comparison = a_comparison(systems=systems, against=None)
    first, *others = verdict.headline(comparison)
    assert "is slower, 0.7" in first
    assert others == []
    assert [figure.tone for figure in verdict.key_figures(comparison)] == ["lost", "lost", "within chance"]


def test_without_roles_timing_curves_and_examples(tmp_path: Path) -> None:
    untimed = [one.model_copy(update={"latency": None, "speedup": None}) for one in a_comparison().systems]
    comparison = a_comparison(systems=tuple(untimed), teacher=None, student=None, against=None, examples=Examples())
    words = " ".join(_outline(a_report(tmp_path, comparison, curves={}, facts=[])).words)
    assert "none is named the student" in words
    assert "In pictures" not in words
    assert "Side by side" not in words


def test_curves_that_say_nothing_are_left_out() -> None:
    comparison = a_comparison()
    empty = {"student": [], "other": [{"elapsed_s": 1.0, "hard": float("nan")}, {"elapsed_s": 2.0, "hard": 0.0}]}
    assert charts.learning_curves(comparison, empty, list(empty), key="k") is None
    one_step = {"student": [{"elapsed_s": 60.0, "hard": 2.0}]}
    drawing = charts.learning_curves(comparison, one_step, ["student"], key="k")
    assert drawing is not None and "ends at 2.00" in drawing


def test_smoothing_keeps_a_constant_and_halves_noise() -> None:
    flat = [(float(minute), 3.0) for minute in range(100)]
    assert charts.smoothed(flat) == flat
    noise = np.random.default_rng(0).normal(0, 1, 500)
    smooth = charts.smoothed([(float(k), float(value)) for k, value in enumerate(noise)])
    assert np.std([value for _, value in smooth]) < 0.5
    assert len(charts.thinned(smooth)) <= 252 and charts.thinned(smooth)[-1] == smooth[-1]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0, 5.3, ["0", "1", "2", "3", "4", "5"]), (0, 1100, ["0", "200", "400", "600", "800", "1,000"]),
     (2.41, 3.6, ["2.50", "2.75", "3.00", "3.25", "3.50"]), (-0.02, 0.06, ["−0.02", "0.00", "0.02", "0.04", "0.06"])],
)  # fmt: skip
def test_ticks_are_round(low: float, high: float, words: list[str]) -> None:
    assert [text for _, text in axes.Scale(low, high, 0, 100).ticks()] == words


def test_labels_keep_apart() -> None:
    placed = axes.apart([50, 52, 51, 200], 15, 0, 205)
    assert placed == [50, 80, 65, 200]
    assert axes.apart([200, 201], 15, 0, 205) == [190, 205]


def test_markup_escapes_and_rounds() -> None:
    shown = element("p", "a<b", Markup("<i>"), None, ["x", "&"], class_='"', x=1.005, open=True, hidden=False)
    assert shown == '<p class="&quot;" x="1" open>a&lt;b<i>x&amp;</p>'


def test_terminal_table_fits_80_columns() -> None:
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(terminal_table(a_comparison()))
    lines = capture.get().splitlines()
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    for part in (
        "student",
        "134.5M",
        "269.0",
        f"{number(a_comparison()['student'].rougeL.value)} (",
        "n = 120",
        SIGNATURE[:20],
    ):
        assert part in text, part


def test_a_further_task_fits_80_columns_and_tells_quality_alone() -> None:
    console = Console(width=80, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(task_table("titles", a_comparison()))
    lines = capture.get().splitlines()
    student = a_comparison()["student"]
    assert max(map(len, lines)) <= 80 and "Task titles" in capture.get()
    assert student.difference is not None and student.p_value is not None
    row = next(line for line in lines if line.startswith("student "))
    assert number(student.difference.value, signed=True) in row and row.rstrip().endswith(f"{student.p_value:.3f}")
    assert "134.5M" not in capture.get() and "1.78" not in row


def test_each_further_task_has_a_section_after_the_main_ones(tmp_path: Path) -> None:
    bleu = Score(value=21.5, low=20, high=23, n=120, unit="%", better="higher", signature="nrefs:1")
    systems = tuple(one.model_copy(update={"metrics": {"bleu": bleu}}) for one in a_comparison().systems)
    further = {"titles": a_comparison(31.0, systems=systems, remarks=(f"a remark {EVIL}",)), "why": a_comparison()}
    text = a_report(tmp_path, further=further)
    for task in further:
        assert f'href="#task-{task}"' in text and text.count(f'id="task-{task}"') == 1
    titles = text[text.index('id="task-titles"') : text.index('id="task-why"')]
    assert text.index("Side by side") < text.index('id="task-titles"') < text.index("How it was made")
    assert "bleu, % ↑" in titles and "21.5" in titles and "a remark" in titles and "<script" not in titles
    assert "against student without teacher" in titles and "Drawn at random" in titles
    assert "times" not in titles and "of its parameters" not in titles, "what it costs stands on top"
    assert "task-" not in a_report(tmp_path)


def test_a_refusing_disk_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf8")
    with pytest.raises(StorageError, match=r"report\.html"):
        a_report(tmp_path / "file")


def test_an_old_report_is_replaced(tmp_path: Path) -> None:
    a_report(tmp_path)
    assert "second" in a_report(tmp_path, title="second")
    assert json.dumps([path.name for path in tmp_path.iterdir()]) == '["report.html"]'
