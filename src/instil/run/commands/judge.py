"""`instil judge`: which of two systems people prefer: the pairs, what was answered, and what it comes to."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from instil.run.commands.options import AsJson

if TYPE_CHECKING:
    from instil.evaluate.agreement import Preference

judge_app = typer.Typer(help="Blind comparison of two systems by people.", no_args_is_help=True, rich_markup_mode=None)

_REMEDY = "name one of outputs/ in an evaluation's folder"
JudgementsPath = Annotated[Path, typer.Argument(help="The file of pairs and answers.", show_default=False)]


@judge_app.command()
def new(
    file: Annotated[Path, typer.Argument(help="Where the pairs go; a new file.", show_default=False)],
    first: Annotated[Path, typer.Argument(help="Outputs of one system: NAME.jsonl of an evaluation.")],
    second: Annotated[Path, typer.Argument(help="Outputs of the other, for the same records.")],
    count: Annotated[int, typer.Option(min=1, help="How many pairs, drawn at random.")] = 100,
    common: Annotated[int, typer.Option(min=0, help="How many of them every judge sees first.")] = 20,
    question: Annotated[str | None, typer.Option(help="What judges are asked.")] = None,
    seed: Annotated[int, typer.Option(help="Draws pairs, orders and sides.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Draw pairs of two systems' outputs for people to judge."""
    from instil.core import console
    from instil.core.errors import ConfigError
    from instil.evaluate.judgement import QUESTION, Judgements, pairs_of
    from instil.evaluate.outputs import load_outputs

    if first.stem == second.stem:
        raise ConfigError(f"both files are called {first.stem}, which names the system; rename one")
    columns = {path.stem: load_outputs(_there(path), remedy=_REMEDY) for path in (first, second)}
    pairs, identical = pairs_of(columns, first.stem, second.stem, count=count, seed=seed)
    Judgements.create(file, pairs, question=question or QUESTION, common=common, seed=seed, identical=identical)
    following = f"instil judge show {file}"
    if as_json:
        console.emit_json({"file": str(file), "pairs": len(pairs), "identical": identical, "next": following})
    else:
        print(f"{file}: {len(pairs)} pairs; {identical} records where both wrote the same\nNext: {following}")


def _there(path: Path) -> Path:
    from instil.core.errors import DataError

    if not path.is_file():
        raise DataError(f"{path}: there is no such file; {_REMEDY}")
    return path


@judge_app.command()
def model(
    file: JudgementsPath,
    url: Annotated[str, typer.Option(help="The judge's server, as http://localhost:8000/v1.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="The model's name there, where it has several.")] = None,
    key_env: Annotated[str | None, typer.Option(help="The environment variable that holds the key.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    structured: Annotated[bool, typer.Option(help="Hold the answer to a JSON form, where the server can.")] = True,
    as_json: AsJson = False,
) -> None:
    """Have a model behind an OpenAI-compatible server judge the pairs, each in both orders."""
    from instil.core import console
    from instil.core.config import parse
    from instil.evaluate.judge import judge_pairs
    from instil.evaluate.judgement import Judgements
    from instil.models.config import ServedConfig
    from instil.models.served import Endpoint

    kept = Judgements(file)
    pairs = kept.pairs()
    asked = {"url": url, "model": name, "key_env": key_env, "concurrency": concurrency}
    endpoint = Endpoint(parse(ServedConfig, asked, name="instil judge model"), "the judge")
    with console.progress("judge", 2 * len(pairs), "answers") as advance:
        found = judge_pairs(
            endpoint, pairs, question=kept.question, structured=structured, done=lambda count: advance(count, "")
        )
    following = f"instil judge show {file}"
    if as_json:
        console.emit_json(found.model_dump() | {"next": following})
        return
    for one in found.preferences:
        print("\n".join(_lines(one)))
    if same := found.agreement:
        print(f"  same in both orders  {100 * same.value:.0f}% ({100 * same.low:.0f} to {100 * same.high:.0f})")
    print(f"{found.unreadable} of {2 * len(pairs)} answers named none\n{found.signature}\nNext: {following}")


@judge_app.command()
def show(file: JudgementsPath, as_json: AsJson = False) -> None:
    """Win rates with intervals, agreement of the judges, and whether sides mattered."""
    from instil.core import console
    from instil.evaluate.agreement import preferences
    from instil.evaluate.judgement import Judgements

    kept = Judgements(file)
    found = preferences(kept.answers())
    following = f"instil judge export {file}"
    if as_json:
        shown = {"preferences": [one.model_dump() for one in found], "identical": kept.identical}
        console.emit_json(shown | {"question": kept.question, "next": following})
        return
    print(kept.question)
    for one in found:
        print("\n".join(_lines(one)))
    if not found:
        print("no answers yet")
    print(f"{kept.identical} further records where both wrote the same\nNext: {following}")


def _lines(one: Preference) -> list[str]:
    rate, left = one.win_rate, one.left
    agreed = "not to be told" if one.alpha is None else f"Krippendorff's alpha {one.alpha:.2f}"
    lines = [
        f"{one.first} against {one.second}: {one.answers} answers to {one.pairs} pairs by {one.judges} judges",
        f"  preferred  {100 * rate.value:.1f}% ({100 * rate.low:.1f} to {100 * rate.high:.1f}), p = {one.p_value:.3f}",
        f"  answers    {one.wins} for, {one.ties} ties, {one.losses} against",
        f"  agreement  {agreed}",
    ]
    if left:
        lines.append(f"  left side  {100 * left.value:.0f}% ({100 * left.low:.0f} to {100 * left.high:.0f})")
    return lines


@judge_app.command()
def export(
    file: JudgementsPath,
    form: Annotated[Literal["jsonl", "csv"], typer.Option("--format", help="jsonl or csv.")] = "jsonl",
    out: Annotated[Path | None, typer.Option(help="Where to write; stdout when not given.")] = None,
) -> None:
    """Every answer as one line of JSON or CSV."""
    from instil.core import publish
    from instil.evaluate.judgement import Answer, Judgements

    rows = [asdict(answer) for answer in Judgements(file).answers()]
    if form == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        table = io.StringIO()
        writer = csv.DictWriter(table, list(Answer.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = table.getvalue()
    if out is None:
        print(text, end="")
    else:
        publish.write_text(out, text)
        print(f"{out}: {len(rows)} answers")
