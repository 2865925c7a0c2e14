"""What should not be in the texts to learn from: each check reads records and says what share of them is concerned."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from instil.core.problems import Problem, graded, warn
from instil.data.languages import language_of
from instil.data.problems import brief
from instil.data.records import Record

_ENOUGH = 20
"""Fewer records show no share of anything."""
_PLACEHOLDERS = frozenset("n/a na none null nil nan todo tbd unknown undefined empty test lorem ipsum".split())
_WORDLIKE = re.compile(r"\w")
# UTF-8 read as Latin-1, what no decoder could read, and markup that was not taken out.
_GARBLED = re.compile(
    r"\ufffd|Ã[\x80-\xbf©¨¤¶¼Ÿ]|â€[™œ\x9d“”]|&(?:amp|lt|gt|quot|nbsp|#\d{2,5});|</?(?:p|br|div|span|td|li)\b[^>]*>"
)
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{2,24}){1,4}\b")
_PHONE = re.compile(
    r"(?<![\w.-])(?:\+\d{1,3}[ .-]?)(?:\(?\d{1,4}\)?[ .-]?){2,5}\d{2,4}(?![\w-])|\(\d{3}\) ?\d{3}-\d{4}\b"
)
_INJECTION = re.compile(
    r"(?:ignore|disregard|forget) (?:all |any |the |your )*(?:previous|prior|above|earlier|preceding) "
    r"(?:instructions?|prompts?|messages?|text)|(?:reveal|print|repeat) (?:your |the )+(?:system )?prompt"
    r"|you are now (?:a|an|in|the|no longer) |<\|(?:im_start|system|assistant|endoftext)\|>|\[/?INST\]"
    r"|(?:^|\n)\s*(?:system|assistant) ?:",
    re.IGNORECASE,
)  # fmt: skip


def problems(records: Sequence[Record]) -> list[Problem]:
    """All checks of this file."""
    if len(records) < _ENOUGH:
        return []
    checks = (same_targets, absurd_targets, copied_sources, garbled, languages, personal_data, injection)
    return [problem for check in checks for problem in check(records)]


def same_targets(records: Sequence[Record]) -> list[Problem]:
    """One answer that most sources share is what a student will always give."""
    (target, count), *_ = Counter(record.targets[0].strip() for record in records).most_common(1)
    if not (grade := graded(count / len(records), warns=0.2, fails=0.5)):
        return []
    evidence = f"{brief(target)} in {count:,} of {len(records):,}"
    what, remedy = "one target stands in many records", "check data.columns.target, or take these records out"
    return [Problem(grade=grade, code="targets-same", what=what, evidence=evidence, remedy=remedy)]


def absurd_targets(records: Sequence[Record]) -> list[Problem]:
    """Placeholders, and texts without a letter or a digit."""
    found = [record for record in records if any(map(_is_absurd, record.targets))]
    if not (grade := graded(len(found) / len(records), warns=0.01, fails=0.25)):
        return []
    evidence = f"{_counted(found, records)}, such as {brief(next(filter(_is_absurd, found[0].targets)))}"
    what, remedy = "targets that say nothing", "take these records out of the data"
    return [Problem(grade=grade, code="targets-absurd", what=what, evidence=evidence, remedy=remedy)]


def _is_absurd(text: str) -> bool:
    words = text.lower().strip(" .-_[]()<>").split()
    return not _WORDLIKE.search(text) or (bool(words) and all(word in _PLACEHOLDERS for word in words))


def copied_sources(records: Sequence[Record]) -> list[Problem]:
    """Targets that hold their whole source: data made for completion, or columns that were mixed up."""
    found = [record for record in records if any(_holds(target, record.source) for target in record.targets)]
    if not (grade := graded(len(found) / len(records), warns=0.05, fails=0.5)):
        return []
    return [
        Problem(
            grade=grade, code="source-in-target", what="targets repeat their whole source",
            evidence=_counted(found, records), remedy="name the right columns, or cut the source off the targets",
        )
    ]  # fmt: skip


def _holds(target: str, source: str) -> bool:
    target, source = " ".join(target.split()), " ".join(source.split())
    return target == source or (len(source) >= 40 and source in target)


def garbled(records: Sequence[Record]) -> list[Problem]:
    """Texts in a wrong encoding, or with markup left in them."""
    what, remedy = "texts are garbled: a wrong encoding, or markup", "read the file as what it is, and strip the markup"
    evidence = _hits(records, _GARBLED.search, above=0.02)
    return [warn("text-garbled", what, remedy, evidence=evidence)] if evidence else []


def languages(records: Sequence[Record]) -> list[Problem]:
    """More than one language in the sources, or in the targets; translation has one on each side."""
    found = []
    for name, texts in (
        ("sources", [record.source for record in records]),
        ("targets", [record.targets[0] for record in records]),
    ):
        counts = Counter(language for text in texts if (language := language_of(text)))
        known = counts.total()
        if known < _ENOUGH or (main := counts.most_common(1)[0])[1] > 0.95 * known:
            continue
        evidence = ", ".join(f"{language} {count / known:.0%}" for language, count in counts.most_common(4))
        remedy = f"keep one language, or see that teacher and student know them all (most are {main[0]})"
        found.append(warn("languages-mixed", f"{name} are in several languages", remedy, evidence=evidence))
    return found


def personal_data(records: Sequence[Record]) -> list[Problem]:
    """E-mail addresses and telephone numbers, which a student may learn by heart."""
    what, remedy = (
        "texts hold what may be personal data",
        "replace addresses and numbers, or be sure that you may use them",
    )
    for kind, pattern in (("e-mail addresses", _EMAIL), ("telephone numbers", _PHONE)):
        if evidence := _hits(records, pattern.search):
            return [warn("personal-data", f"{what}: {kind}", remedy, evidence=evidence)]
    return []


def injection(records: Sequence[Record]) -> list[Problem]:
    """Instructions to a model inside the texts: a teacher that follows instructions may obey them."""
    what, remedy = (
        "texts speak to a model, as prompt injections do",
        "look at these records, and take out what is not yours",
    )
    evidence = _hits(records, _INJECTION.search)
    return [warn("prompt-injection", what, remedy, evidence=evidence)] if evidence else []


def _hits(records: Sequence[Record], search: Callable[[str], re.Match[str] | None], *, above: float = 0.0) -> str:
    """How many records have a hit, where that is more than the share `above`; it names the first one, not the hit."""
    found = [record for record in records if any(map(search, (record.source, *record.targets)))]
    if len(found) <= above * len(records):
        return ""
    return f"{_counted(found, records)}, the first {brief(found[0].id)}"


def _counted(found: Sequence[Record], records: Sequence[Record]) -> str:
    return f"{len(found):,} of {len(records):,} records"
