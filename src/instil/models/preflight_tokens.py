"""Checks of vocabularies, by encoding: do two models read and write the same tokens, and can one write the targets?

Names prove nothing: the probe is every byte, white space, digits, and texts of the user's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from instil.core.problems import Problem, fail, graded, info, warn
from instil.data.problems import brief
from instil.data.tokens import Encoded
from instil.models.loading import Reader
from instil.models.students.vocabulary.link import link

_LOSSY, _MOST_LOSSY = 0.02, 0.5
_MOST_PROBED = 200
BYTES = tuple(chr(number) for number in range(256))
SPACES = ("a b", "a  b", "a   b", " a", "a ", "a\tb", "a\nb", "a\n\nb", "a\r\nb", "\u00a0a", "    a")
DIGITS = ("0", "42", "2026", "3.14159", "1,234,567", "007", "1e-9", "12:34", "-5", "½")


def probes(texts: Sequence[str]) -> list[str]:
    """What tokenizers are compared on: every byte as a character, white space, digits, and `texts`."""
    return [*BYTES, *SPACES, *DIGITS, *texts[:_MOST_PROBED]]


def one_vocabulary(role: str, reader: Reader, targets: Sequence[str]) -> list[Problem]:
    """Whether a model has a row for each token of its tokenizer, and its tokenizer can write the targets."""
    return [*_sizes(role, reader), *_lossy(role, reader.tokenizer, targets)]


def _sizes(role: str, reader: Reader) -> list[Problem]:
    inner = reader.config.get("text_config") or reader.config
    declared, tokens = inner.get("vocab_size"), len(reader.tokenizer)
    if declared is None or declared == tokens:
        return []
    evidence = f"{declared:,} rows for {tokens:,} tokens"
    if declared < tokens:
        remedy = "take the tokenizer that belongs to the model, or resize its embedding"
        return [fail("vocabulary-short", f"the {role} has no row for some of its tokens", remedy, evidence=evidence)]
    return [info("vocabulary-padded", f"the {role}'s embedding is padded, which does no harm", evidence=evidence)]


def _lossy(role: str, tokenizer: Any, targets: Sequence[str]) -> list[Problem]:
    chosen = list(targets[:_MOST_PROBED])
    lost = [text for text in chosen if _squeezed(_there_and_back(tokenizer, text)) != _squeezed(text)]
    if not chosen or not (grade := graded(len(lost) / len(chosen), warns=_LOSSY, fails=_MOST_LOSSY)):
        return []
    evidence = f"{len(lost):,} of {len(chosen):,} targets, such as {brief(lost[0])}"
    evidence += f", which comes back as {brief(_there_and_back(tokenizer, lost[0]))}"
    return [
        Problem(
            grade=grade, code="tokenizer-lossy", what=f"the {role}'s tokenizer cannot write the targets",
            evidence=evidence, remedy="choose a model that knows these characters, or take them out of the data",
        )
    ]  # fmt: skip


def _there_and_back(tokenizer: Any, text: str) -> str:
    return str(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)))


def _squeezed(text: str) -> str:
    return "".join(text.split())


def two_vocabularies(teacher: Reader, student: Reader, texts: Sequence[str], *, labelled: bool) -> list[Problem]:
    """Whether a student reads as its teacher does. `labelled`: it learns from the teacher's rows, a row a token."""
    both = teacher.tokenizer, student.tokenizer
    all_probes = probes(texts)
    read = [[tuple(each.encode(text, add_special_tokens=False)) for text in all_probes] for each in both]
    differing = [text for text, theirs, own in zip(all_probes, *read, strict=True) if theirs != own]
    if not differing:
        return [*_special(*both), info("tokenizers-same", f"teacher and student agree on {len(all_probes):,} probes")]
    evidence = f"{len(differing):,} of {len(all_probes):,} probes differ, such as {brief(differing[0])}"
    if not labelled:
        return [info("tokenizers-differ-unused", "the student reads in tokens of its own", evidence=evidence)]
    tied = link(*both)
    if tied is not None:
        same = sum(tied.to_teacher(own) == theirs for theirs, own in zip(*read, strict=True))
        if same > len(all_probes) / 2:
            remedy = "records whose targets differ are left out; nothing to do if they are few"
            return [
                warn("tokenizers-differ-partly", "the student lacks tokens of its teacher's", remedy, evidence=evidence)
            ]
    remedy = "choose one with the teacher's tokenizer, or learn from texts: distil.alpha: 0, labels.targets: teacher"
    return [fail("tokenizers-differ", "the student reads in other tokens than its teacher", remedy, evidence=evidence)]


def two_teachers(name: str, own: Reader, other: Reader) -> list[Problem]:
    """Whether a further teacher reads rows in the tokens of the recipe's own, with which its labels are mixed."""
    remedy = "choose teachers that share a tokenizer, or leave it out"
    if own.kind != other.kind:
        what = f"labels.others: {name} is {other.kind} and the teacher {own.kind}, so their rows differ"
        return [fail("teachers-differ", what, remedy)]
    theirs, mine = other.tokenizer.get_vocab(), own.tokenizer.get_vocab()
    if theirs == mine:
        return []
    same = len(theirs.items() & mine.items())
    what = f"labels.others: {name} has another vocabulary than the teacher"
    evidence = f"{same:,} of its {len(theirs):,} tokens are the teacher's, which has {len(mine):,}"
    return [fail("teachers-differ", what, remedy, evidence=evidence)]


def _special(teacher: Any, student: Any) -> list[Problem]:
    names = ("eos_token_id", "pad_token_id", "bos_token_id", "unk_token_id")
    pairs = {name: (getattr(teacher, name), getattr(student, name)) for name in names}
    found = [f"{name} {one} and {other}" for name, (one, other) in pairs.items() if one != other]
    if not found:
        return []
    if pairs["eos_token_id"][0] != pairs["eos_token_id"][1]:
        remedy = "give both the same eos_token; labels end with the teacher's"
        return [fail("end-tokens-differ", "teacher and student end their texts differently", remedy, evidence=found[0])]
    remedy = "nothing to do where neither stands in a prompt or a target"
    return [info("special-tokens-differ", "special tokens differ", remedy, evidence=", ".join(found))]


def two_readings(teacher: Any, student: Any, theirs: Sequence[Encoded], own: Sequence[Encoded]) -> list[Problem]:
    """Whether both models' targets are the same tokens in the same examples, with what stands around the texts."""
    tied = link(teacher, student)
    if tied is None or not theirs:
        return []
    apart = [
        each.id for each, mine in zip(theirs, own, strict=True) if tied.to_teacher(mine.target_ids) != each.target_ids
    ]
    if len(apart) < len(theirs) / 2:
        return []
    evidence = f"{len(apart):,} of {len(theirs):,} targets, the first of record {brief(apart[0])}"
    remedy = "choose a student of the teacher's kind, or learn from texts: distil.alpha: 0, labels.targets: teacher"
    what = "the student writes targets in other tokens than its teacher, though their vocabularies agree"
    return [fail("targets-differ", what, remedy, evidence=evidence)]
