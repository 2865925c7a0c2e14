"""Stage `synthesise`: the teacher writes records of its own, which are cleaned like any others (in the manner of
Self-Instruct, Wang et al. 2022, arXiv 2212.10560).

Written texts stand in `written.jsonl`, a line each, after every few of them, so that a killed run goes on; which
examples a text was asked behind follows from the seed and its number.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from instil.core import console, publish
from instil.core.errors import ConfigError, DataError
from instil.core.fingerprint import fingerprint, hash_file
from instil.data.clean import judge, unfit
from instil.data.formats import format_of, open_table
from instil.data.leakage import HeldOut
from instil.data.prompts import Prompt
from instil.data.records import HELD_OUT, MAIN_TASK, Record, Splits, data_fingerprint, write_jsonl
from instil.data.shots import choose_shots, until_next, with_shots
from instil.data.tokens import cut_sources
from instil.run.recipe import Recipe
from instil.run.sections.synthetic import SyntheticConfig
from instil.run.stage import Workshop
from instil.run.stages.data import Data, damaged, read_records
from instil.run.stages.keeping import teacher_scores
from instil.run.stages.teach import Teacher, generator_of

WRITTEN_NAME, RECORDS_NAME = "written.jsonl", "records.jsonl"
_TOGETHER, _BATCH = 64, 16
_EDGE = "###"


@dataclass(frozen=True, slots=True)
class Written:
    """A source with the teacher's target; `log_prob`: the target's mean log-probability a token where it counts."""

    source: str
    target: str
    log_prob: float | None = None


def run_synthesise(shop: Workshop, recipe: Recipe, base: Path, data: Data, teacher: Teacher) -> Data:
    """The data with what the teacher wrote in the train split. As they are where the recipe asks for none."""
    section = recipe.synthetic
    if section is None:
        return data
    texts = _texts(section, base) if section.texts else None
    inputs = {"teacher": teacher.fingerprint, "data": data.fingerprint}
    if section.texts:
        inputs["texts"] = hash_file(base / section.texts)

    def work(folder: Path) -> Mapping[str, Any]:
        kept, account = _write(recipe, section, data, teacher, texts, folder)
        write_jsonl(folder / RECORDS_NAME, kept)
        console.say(f"  {_line(account)}")
        return {"fingerprint": data_fingerprint(_with(data, kept, section)), "account": account}

    artifact = shop.stage(
        "synthesise",
        work,
        inputs=inputs,
        config={
            "synthetic": section.model_dump(mode="json"),
            "clean": recipe.data.clean.model_dump(mode="json"),
            "prompt": recipe.prompt.model_dump(mode="json"),
            "limits": recipe.limits.model_dump(mode="json"),
            "beams": recipe.labels.beams,
        },
    )
    lesson = Data(artifact, _with(data, read_records(artifact.folder / RECORDS_NAME), section))
    if data_fingerprint(lesson.splits) != lesson.fingerprint:
        raise damaged(artifact.folder, "its records are not those that were written")
    return lesson


def _with(data: Data, kept: Sequence[Record], section: SyntheticConfig) -> Splits:
    others = [] if section.instead else data.splits["train"]
    return {**data.splits, "train": [*others, *kept]}


def _write(
    recipe: Recipe, section: SyntheticConfig, data: Data, teacher: Teacher, texts: Sequence[str] | None, folder: Path
) -> tuple[list[Record], dict[str, int]]:
    """Records until there are enough, or until as many were asked for as may be."""
    if texts is None and teacher.reads.kind == "encoder-decoder":
        raise ConfigError("a teacher with an encoder writes answers, no texts of its own; give synthetic.texts")
    path = folder / WRITTEN_NAME
    written = _read(path)
    most = len(texts) if texts is not None else section.records * section.tries
    with console.progress("synthesise", section.records, "records") as advance:
        while True:
            kept, account = keep(written, recipe, section, data.splits)
            advance(len(kept), f"of {len(written):,} written")
            if len(kept) >= section.records or len(written) >= most:
                break
            numbers = range(len(written), min(len(written) + _TOGETHER, most))
            sources = (
                [texts[n] for n in numbers] if texts is not None else _sources(recipe, section, data, teacher, numbers)
            )
            written += _answered(recipe, section, data, teacher, sources)
            publish.write_text(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in written))
    if not kept:
        raise DataError(
            f"nothing of what the teacher wrote can be used ({_line(account)}); see {path.name} in {folder}"
        )
    return kept, account


def keep(
    written: Sequence[Written], recipe: Recipe, section: SyntheticConfig, splits: Splits
) -> tuple[list[Record], dict[str, int]]:
    """The first good records of what was `written`, and how many were dropped for which reason."""
    clean = recipe.data.clean.model_copy(update={"leakage": "remove"})
    known = [record for record in splits["train"] if record.task == MAIN_TASK]
    held_out = HeldOut([record.source for name in HELD_OUT for record in splits[name]], clean.leakage_ngram)
    prefix = recipe.data.prefix
    records = [
        Record(f"synthetic-{number}", prefix + one.source if one.source else "", (one.target,) if one.target else ())
        for number, one in enumerate(written)
    ]
    overlaps = judge([*known, *records], clean, held_out)[len(known) :]
    seen = {" ".join(record.source.split()) for record in known}
    dropped: Counter[str] = Counter()
    kept: list[Record] = []
    for record, one, overlap in zip(records, written, overlaps, strict=True):
        key = " ".join(record.source.split())
        reason: str | None = unfit(record, clean) or ("exact duplicate" if key in seen else overlap)
        if reason is None and section.max_perplexity and math.exp(-(one.log_prob or 0.0)) > section.max_perplexity:
            reason = "improbable"
        if reason is None:
            kept.append(record)
        else:
            dropped[reason] += 1
        seen.add(key)
    return kept[: section.records], {"written": len(written), "kept": min(len(kept), section.records), **dropped}


def _sources(
    recipe: Recipe, section: SyntheticConfig, data: Data, teacher: Teacher, numbers: Sequence[int]
) -> list[str]:
    """New sources, each asked for behind other examples."""
    train = [record for record in data.splits["train"] if record.task == MAIN_TASK]
    chat = recipe.prompt.kind == "chat"
    prompt = Prompt(kind="chat" if chat else "template", text="{source}", system=recipe.prompt.system)
    cut = partial(cut_sources, teacher.reads.tokenizer, limit=recipe.limits.source)
    asked = []
    for number in numbers:
        shots = choose_shots(train, section.shots, f"{recipe.seed}/{number}")
        shown = cut([shot.source.removeprefix(recipe.data.prefix) for shot in shots])
        asked.append("".join(f"{part}\n{_EDGE}\n" for part in (section.ask, *(source for source, _ in shown))))
    longest = (recipe.limits.source + 8) * (section.shots + 1) + len(section.ask)
    generator = generator_of(recipe, teacher, beams=1, prompt=prompt, max_source_tokens=longest)
    found = generator.candidates(
        asked, 1, max_new_tokens=recipe.limits.source, batch_size=_BATCH, sample=section.sample,
        seed=int(fingerprint(recipe.seed, "sources", numbers[0]), 16) % (1 << 31),
    )  # fmt: skip
    return [texts[0].partition(_EDGE)[0].strip() if texts else "" for texts in found]


def _answered(
    recipe: Recipe, section: SyntheticConfig, data: Data, teacher: Teacher, sources: Sequence[str]
) -> list[Written]:
    shots = choose_shots(data.splits["train"], section.target_shots, recipe.seed) if section.target_shots else []
    generator = generator_of(recipe, teacher, beams=recipe.labels.beams, prompt=with_shots(recipe.prompt, shots))
    asked = [recipe.data.prefix + source for source in sources if source]
    texts = generator.generate(asked, max_new_tokens=recipe.limits.target, batch_size=_BATCH)
    targets = iter([until_next(text, shots) for text in texts])
    written = [Written(source, next(targets) if source else "") for source in sources]
    if section.max_perplexity is None:
        return written
    good = [number for number, one in enumerate(written) if one.source and one.target]
    pairs = [
        (Record(str(number), recipe.data.prefix + written[number].source, ("",)), written[number].target)
        for number in good
    ]
    for number, score in zip(good, teacher_scores(recipe, teacher, pairs), strict=True):
        written[number] = replace(written[number], log_prob=score)
    return written


def _texts(section: SyntheticConfig, base: Path) -> list[str]:
    path = base / Path(str(section.texts)).expanduser()
    if not path.is_file():
        raise ConfigError(f"synthetic.texts: {section.texts}: no such file; give the unlabelled texts, a line each")
    if format_of(path) is None:
        found: Iterator[object] = iter(path.read_text(encoding="utf8").split("\n"))
    else:
        table = open_table(path, {section.column})
        if section.column not in table.columns:
            raise ConfigError(f"{section.texts} has no column {section.column!r}; set synthetic.column")
        found = (row.get(section.column) for _, row in table.rows)
    return [text.strip() for text in found if isinstance(text, str) and text.strip()]


def _read(path: Path) -> list[Written]:
    lines = path.read_text(encoding="utf8").split("\n") if path.is_file() else []
    try:
        return [Written(**json.loads(line)) for line in lines if line]
    except (ValueError, TypeError) as error:
        raise damaged(path.parent, f"{path.name} is not readable") from error


def _line(account: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in account.items() if reason not in ("written", "kept"))
    return f"{account['kept']:,} kept of {account['written']:,} written" + (f"; dropped: {reasons}" if reasons else "")
