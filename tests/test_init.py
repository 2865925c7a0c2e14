"""`instil init`: whatever the answers, the recipe reads and says what was answered; on real files it runs."""

from __future__ import annotations

import csv
import json
import os
import pty
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from instil.core.config import parse
from instil.core.errors import ConfigError, DataError
from instil.data.load import load_splits
from instil.models.wheels import WHEELS
from instil.run.init.answers import BUILT_IN_TEACHER, TASKS
from instil.run.init.data import MOST_RECORDS, ColumnSeen, estimated_tokens
from instil.run.init.init import InitAnswers, InitResult, Seen, draft_recipe, init_command, inspect_data
from instil.run.recipe import Recipe
from instil.run.recipe_file import read_recipe

_DICE = random.Random(7)
_WORDS = [
    f"{a}{b}{c}" for a in ("be", "mo", "ra", "ti") for b in ("lu", "na", "so") for c in ("t", "rn", "l", "k", "m")
]
ROWS = [
    {"nr": n, "article": " ".join(_DICE.choices(_WORDS, k=30 + n % 40)), "summary": f"In short {_DICE.choice(_WORDS)}"}
    for n in range(200)
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jsonl(name: str, rows: list[dict[str, Any]]) -> Path:
    path = Path(name)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")
    return path


def made(data: Path, **flags: Any) -> tuple[Recipe, InitResult]:
    result = init_command(data, out=Path("recipe.yaml"), yes=True, **flags)
    return read_recipe(result.path), result


def refusal(data: Path | None, out: str = "new.yaml", **flags: Any) -> str:
    with pytest.raises((ConfigError, DataError)) as caught:
        init_command(data, out=Path(out), yes=True, **flags)
    line = str(caught.value)
    assert "\n" not in line and "; " in line
    return line


# Any answers.

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
names = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,79}\Z")
teachers = st.sampled_from([f"wheel:{name}" for name in WHEELS] + ["google-t5/t5-base", "facebook/bart-base"]) | texts


@st.composite
def answers_and_seen(draw: st.DrawFn) -> tuple[InitAnswers, Seen | None]:
    source, target = draw(st.lists(texts, min_size=2, max_size=2, unique=True))
    place = draw(texts.filter(lambda text: "\0" not in text))
    answers = InitAnswers(
        data=Path(place), source=source, target=target, task=draw(st.sampled_from(TASKS)), teacher=draw(teachers),
        minutes=draw(st.floats(0.05, 1e4)), name=draw(names),
    )  # fmt: skip
    tokens = st.integers(0, 5000)
    columns = tuple(
        ColumnSeen(
            name=name, filled=draw(st.integers(0, 9)), tokens_p95=draw(tokens), tokens_mean=draw(st.floats(0, 5e3)),
            unique=draw(st.booleans()), lists_in_cells=draw(st.booleans()),
        )
        for name in dict.fromkeys([source, target, "id"])
    )  # fmt: skip
    seen = Seen(place, draw(st.integers(1, MOST_RECORDS)), draw(st.booleans()), columns)
    return answers, draw(st.sampled_from([seen, None]))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(answers_and_seen())
def test_any_answers_give_a_recipe_that_says_them(case: tuple[InitAnswers, Seen | None]) -> None:
    answers, seen = case
    Path("any.yaml").write_text(draft_recipe(answers, seen), encoding="utf8", newline="")
    recipe = read_recipe(Path("any.yaml"))
    assert (recipe.name, recipe.teacher.model) == (answers.name, answers.teacher)
    assert recipe.data.columns.source == answers.source
    assert (recipe.data.columns.target or recipe.data.columns.targets) == (answers.target,)
    if seen:
        assert recipe.data.source == seen.place
    assert recipe.teacher.teach and recipe.distil and recipe.student
    budgets = [loop.budget.minutes or 0 for loop in (recipe.teacher.teach.loop, recipe.distil.loop, recipe.distil.loop)]
    assert sum(budgets) == pytest.approx(answers.minutes, abs=0.03)
    longest = recipe.limits.source + recipe.limits.target + 64
    for tokens in (recipe.teacher.teach.loop.batch_tokens, recipe.distil.loop.batch_tokens, recipe.labels.batch_tokens):
        assert tokens >= longest
    assert recipe.limits.source <= 448
    assert recipe.limits.source % 8 == recipe.limits.target % 8 == 0


@pytest.mark.parametrize("length", range(30, 50))
def test_a_value_that_reaches_the_remarks_column(length: int) -> None:
    draft = draft_recipe(InitAnswers(data=Path("pairs.jsonl"), source="a", target="b", name="n" * length))
    Path("any.yaml").write_text(draft, encoding="utf8")
    assert read_recipe(Path("any.yaml")).name == "n" * length


def test_every_line_of_the_recipe_has_a_remark() -> None:
    draft = draft_recipe(InitAnswers(data=Path("pairs.jsonl"), source="article", target="summary"))
    for line in draft.splitlines():
        if line.strip() and not line.startswith("#"):
            assert " # " in line.replace("  # ", " #", 1 if line.lstrip().startswith("# ") else 0), line
        assert len(line) <= 120, line


def test_every_alternative_names_a_key_that_exists() -> None:
    draft = draft_recipe(InitAnswers(data=Path("pairs.jsonl"), source="article", target="summary"))
    found = 0
    section: list[tuple[int, type[BaseModel]]] = [(0, Recipe)]
    for line in draft.splitlines():
        code = line.lstrip()
        if not code or line.startswith("#"):
            continue
        depth = len(line) - len(code)
        section = [(indent, model) for indent, model in section if indent <= depth]
        key = code.removeprefix("# ").partition(":")[0]
        assert key in section[-1][1].model_fields, line
        found += code.startswith("# ")
        inner = _section(section[-1][1], key)
        if inner and not code.startswith("# "):
            section.append((depth + 2, inner))
    assert found >= 12


def _section(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    kind: Any = model.model_fields[key].annotation
    options = [kind, *getattr(kind, "__args__", ())]
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)


# Real files.


def test_two_hundred_pairs_give_a_recipe_for_the_built_in_teacher() -> None:
    recipe, result = made(jsonl("my pairs.jsonl", ROWS))
    assert result.next_command == "instil run recipe.yaml"
    assert (recipe.name, recipe.data.source) == ("my-pairs", "my pairs.jsonl")
    assert (recipe.data.columns.source, recipe.data.columns.target) == ("article", ("summary",))
    teach, student, distil = recipe.teacher.teach, recipe.student, recipe.distil
    assert teach and student and distil
    assert (recipe.teacher.model, teach.adapt.kind, teach.adapt.rank, teach.adapt.layers) == (
        BUILT_IN_TEACHER, "lora", 16, 16,
    )  # fmt: skip
    assert (student.layers, student.choice) == (18, "block-influence")
    assert (teach.loop.budget.minutes, distil.loop.budget.minutes, distil.without_teacher) == (4, 3, True)
    assert recipe.prompt.text == "{source}\n\nSummary:"
    assert recipe.data.limit.train is None and recipe.data.order == "mixed"
    assert [remark for remark in result.remarks if "guessed" in remark]
    splits, _ = load_splits(recipe.data, base=Path())
    assert min(len(records) for records in splits.values()) >= 5


def test_limits_follow_the_lengths_of_the_data() -> None:
    recipe, _ = made(jsonl("pairs.jsonl", ROWS))
    words = sorted(len(str(row["article"]).split()) for row in ROWS)[189]
    assert words * 1.4 <= recipe.limits.source <= words * 2.2 + 10
    assert recipe.limits.target == recipe.evaluate.max_new_tokens == 16
    long = [{"source": "word " * 2000, "target": f"title {n}"} for n in range(30)]
    recipe, result = made(jsonl("long.jsonl", long), force=True)
    assert recipe.limits.source == 448
    assert [remark for remark in result.remarks if "limits.source is 448" in remark]


def test_no_more_than_the_first_records_are_looked_at() -> None:
    rows = [{"source": f"a text number {n}", "target": "x"} for n in range(MOST_RECORDS + 5)]
    path = jsonl("many.jsonl", rows)
    with path.open("a") as file:
        file.write("this line is broken\n")
    seen = inspect_data(path)
    assert (seen.records, seen.whole) == (MOST_RECORDS, False)
    recipe, result = made(path, minutes=0.5)
    assert recipe.data.limit.train and [remark for remark in result.remarks if "data.limit.train" in remark]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".json", ".parquet"])
def test_other_formats(ending: str) -> None:
    path = Path(f"pairs{ending}")
    if ending == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif ending == ".json":
        path.write_text(json.dumps(ROWS))
    else:
        with path.open("w", newline="") as file:
            table = csv.DictWriter(file, list(ROWS[0]), delimiter="\t" if ending == ".tsv" else ",")
            table.writeheader()
            table.writerows(ROWS)
    recipe, _ = made(path)
    assert (recipe.data.columns.source, recipe.data.columns.target) == ("article", ("summary",))


def test_lists_of_targets() -> None:
    rows = [{"id": 1, "text": f"text {n} and more of it", "refs": [f"a {n}", f"b {n}"]} for n in range(30)]
    recipe, _ = made(jsonl("lists.jsonl", rows))
    assert recipe.data.columns.target == ("refs",)
    assert recipe.data.columns.id is None, "ids that repeat are not used"
    assert len(load_splits(recipe.data, base=Path())[0]["train"][0].targets) == 2
    Path("lists.csv").write_text("text,refs\n" + 'some words here,"[""a"", ""b""]"\n' * 3)
    assert made(Path("lists.csv"), force=True)[0].data.columns.targets == ("refs",)


def test_a_folder_and_an_absolute_path(folder: Path) -> None:
    Path("data").mkdir()
    jsonl("data/train.jsonl", ROWS[:150])
    jsonl("data/test.jsonl", ROWS[150:])
    assert inspect_data(Path("data")).given == {"train", "test"}
    recipe, _ = made(folder / "data")
    assert recipe.data.source == "data"
    assert len(load_splits(recipe.data, base=Path())[0]["test"]) == 50


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"question": "why?", "context": "because of many things " * 5, "answer": "so"}, ("context", "answer")),
        ({"a": "one two three four", "b": "eins zwei drei vier fünf"}, ("a", "b")),
        ({"b": "short one", "a": "a much longer text than the other"}, ("a", "b")),
        ({"url": "http://x y z", "id": "7", "body": "all the words", "title": "words"}, ("body", "title")),
        ({"n": 1, "text": "only one text"}, ("text", None)),
        ({"text": "a text to judge", "label": 3}, ("text", "label")),
    ],
)
def test_guessed_columns(row: dict[str, Any], expected: tuple[str, str | None]) -> None:
    seen = inspect_data(jsonl("guess.jsonl", [row] * 3))
    assert (seen.source, seen.target) == expected


def test_words_and_tokens() -> None:
    seen = inspect_data(jsonl("pairs.jsonl", ROWS)).column("summary")
    assert (seen.words_mean, seen.words_p95, seen.filled) == (3, 3, 200)
    assert estimated_tokens("机器学习是人工智能的一个分支，它研究如何让计算机从数据中学习。") > 40


# Mistakes.


def test_refusals(folder: Path) -> None:
    path = jsonl("pairs.jsonl", ROWS)
    assert "did you mean 'pairs.jsonl'" in refusal(Path("pair.jsonl"))
    assert "did you mean 'article'" in refusal(path, source="artcle")
    assert "found 'nr', 'article', 'summary'" in refusal(path, target="xyz")
    assert "did you mean 'summarise'" in refusal(path, task="summarize")
    assert "both column 'article'" in refusal(path, source="article", target="article")
    assert "choose one of wheel:" in refusal(path, teacher="wheel:smol")
    assert "no such file or folder" in refusal(path, teacher="./nothing")
    for minutes in (0, -1, float("nan"), float("inf")):
        assert "above 0" in refusal(path, minutes=minutes)
    assert "for example My-model" in refusal(path, name="My model")
    assert "instil init pairs.jsonl" in refusal(None)
    assert "local files" in refusal(Path("hub:owner/name"))
    assert "name it with --target" in refusal(jsonl("one.jsonl", [{"text": "a text"}] * 30))
    assert "holds no text" in refusal(jsonl("empty.jsonl", [{"a": "a text", "b": None}] * 30), source="a", target="b")
    assert "no named columns" in refusal(jsonl("nothing.jsonl", [{}]))
    assert "a folder" in refusal(path, out=str(folder))
    assert not Path("new.yaml").exists()


def test_few_pairs_and_terms_are_remarked() -> None:
    _, result = made(jsonl("few.jsonl", ROWS[:10]), teacher="wheel:gemma3-270m")
    assert [remark for remark in result.remarks if "only 10 pairs" in remark]
    assert [remark for remark in result.remarks if "accept_licences: [gemma]" in remark]


def test_an_old_recipe_is_never_lost() -> None:
    path = jsonl("pairs.jsonl", ROWS)
    Path("recipe.yaml").write_text("mine")
    assert "--force" in refusal(path, out="recipe.yaml")
    for number in (1, 2):
        _, result = made(path, force=True, minutes=number)
        assert f"kept as recipe.yaml.old{number}" in result.remarks[-1]
    assert Path("recipe.yaml.old1").read_text() == "mine"


def test_a_teacher_of_ones_own(folder: Path) -> None:
    Path("t5").mkdir()
    Path("t5/config.json").write_text(
        json.dumps({"is_encoder_decoder": True, "num_layers": 8, "num_decoder_layers": 10})
    )
    recipe, result = made(jsonl("pairs.jsonl", ROWS), teacher="./t5", task="translate")
    assert recipe.student and recipe.student.layers == 6
    assert recipe.prompt.kind == "prefix" and recipe.prompt.text == "translate: "
    assert recipe.teacher.teach and recipe.teacher.teach.adapt.layers is None
    assert not [remark for remark in result.remarks if "student.layers" in remark]


def test_questions_on_a_terminal() -> None:
    jsonl("pairs.jsonl", ROWS)
    code = (
        "from pathlib import Path; from instil.run.init.init import init_command;"
        "print(init_command(None, out=Path('r.yaml'), teacher='wheel:smollm2-135m-instruct').next_command)"
    )
    own, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    # data; source wrong, then the default; target by default; task; minutes; name by default
    os.write(own, b"pairs.jsonl\nartikle\n\n\ntranslate\n5\n\n")
    stdout, stderr = process.communicate(timeout=60)
    os.close(own)
    assert (process.returncode, stdout) == (0, "instil run r.yaml\n"), stderr
    assert "did you mean 'article'" in stderr and "words on average" in stderr
    recipe = read_recipe(Path("r.yaml"))
    assert recipe.prompt.text == "{source}\n\nTranslation:"
    assert recipe.distil and recipe.distil.loop.budget.minutes == 1.5
    assert recipe.name == "pairs"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_recipe_runs_from_data_to_report() -> None:
    """With a tiny teacher in place of the built-in one; all stages, nothing else changed but times and counts."""
    from instil.run.pipeline import Pipeline
    from tiny import tiny_model, tiny_tokenizer

    tiny_model("llama").save_pretrained("teacher")
    tiny_tokenizer("decoder-only").save_pretrained("teacher")
    rows = [{"text": row["article"][:24], "title": f"{n}"} for n, row in enumerate(ROWS[:60])]
    result = init_command(jsonl("pairs.jsonl", rows), out=Path("r.yaml"), teacher="./teacher", minutes=0.05, yes=True)
    short = ("evaluate.items=3", "evaluate.latency_items=1", "evaluate.max_new_tokens=4")
    pipeline = Pipeline(read_recipe(result.path, short), Path())
    _, report = pipeline.publish(result.next_command)
    assert report.is_file()
    assert {"teacher", "student"} <= set(json.loads((pipeline.root / "summary.json").read_text()))


def test_the_draft_is_yaml_without_anything_seen() -> None:
    draft = draft_recipe(InitAnswers(data=Path("a: b #c.jsonl"), source="yes", target="1e3", name="007"))
    recipe = parse(Recipe, yaml.safe_load(draft), name="draft")
    assert (recipe.name, recipe.data.source, recipe.data.columns.source) == ("007", "a: b #c.jsonl", "yes")
