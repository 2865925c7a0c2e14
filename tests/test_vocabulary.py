"""Smaller vocabularies: every text still goes in and out, targets are the same tokens, kept ids have their old logits,
and the teacher's labels stay usable."""

from __future__ import annotations

import copy
import functools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import tiny
from command import instil
from instil.core.config import parse
from instil.core.errors import ConfigError, LabelError, ModelError
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.tokens import Encoded, Limits, encode_records
from instil.labels.codec import Codec
from instil.labels.linked import LinkedLabels
from instil.labels.store import LabelStore
from instil.labels.teacher import Teacher
from instil.labels.writer import write_labels
from instil.models.family import family_of
from instil.models.folders import write_model
from instil.models.students.vocabulary.choose import Texts, choose, count_use
from instil.models.students.vocabulary.cut import keep_rows, renumber
from instil.models.students.vocabulary.link import Link, link
from instil.models.students.vocabulary.pieces import Words
from instil.models.students.vocabulary.rewrite import by_word, pieces_of
from instil.models.students.vocabulary.trim import VocabularyReport, trim
from instil.objectives.fused import Mix, row_loss
from instil.objectives.sparse import SparseLabels
from instil.run.sections.student import StudentConfig
from project import finished, project
from small import BUILDERS, small_model, small_tokenizer, texts

RECORDS = 40
TOKENS = 900
PROMPT = Prompt(kind="template", text="Text: {source}\n\nSynopsis:")
LIMITS = Limits(source=50, target=40)
EXAMPLES = [
    Encoded("a", (9, 4, 250, 17, 33, 8, 90, tiny.END), (5, 66, 7, 12, tiny.END)),
    Encoded("b", (12, 13, 77, tiny.END), (88, tiny.END)),
]
KEPT = sorted({0, 1, 2, 100, *(token for each in EXAMPLES for token in (*each.prompt_ids, *each.target_ids))})


def data_of(name: str, count: int = RECORDS) -> Texts:
    kind = "encoder-decoder" if small_model(name).config.is_encoder_decoder else "decoder-only"
    return Texts(prompt=PROMPT, limits=LIMITS, kind=kind, records=texts()[:count])


def need_of(name: str, words: Words = "merged") -> int:
    """The least size that `name` can be cut to."""
    with pytest.raises(ConfigError, match="give") as caught:
        trim(small_model(name), small_tokenizer(name), data_of(name), 1, words)
    return int(str(caught.value).split()[-3])


@functools.cache
def trimmed(name: str, words: Words = "merged", more: int | None = 30) -> tuple[Any, Any, VocabularyReport]:
    """`name` cut to what it must keep and `more` tokens; None for all that the data use."""
    size = None if more is None else need_of(name, words) + more
    return trim(small_model(name), small_tokenizer(name), data_of(name), size, words)


WAYS: tuple[Words, ...] = ("merged", "whole")
EVERY = [*((name, "merged") for name in BUILDERS), ("byte-level", "whole"), ("gemma", "whole")]


def ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


@pytest.mark.parametrize(("name", "words"), EVERY)
@given(text=st.text(max_size=60))
@example(text="Ünïcode ▁ 漢字 🙂 and\n\n  spaces\t<unk> <0x41> </s>")
@example(text="a library for reading libraries, recombination of distillation")
@settings(max_examples=60, deadline=None)
def test_every_text_comes_out_as_before(name: str, words: Words, text: str) -> None:
    _, after, _ = trimmed(name, words)
    before = small_tokenizer(name)
    for cleaned in (False, True):
        assert after.decode(ids(after, text), skip_special_tokens=cleaned) == before.decode(
            ids(before, text), skip_special_tokens=cleaned
        )


@pytest.mark.parametrize(("name", "words"), EVERY)
def test_the_new_ids_are_the_old_tokens_in_their_order(name: str, words: Words) -> None:
    _, after, report = trimmed(name, words)
    before = small_tokenizer(name)
    assert 0 < report.kept == len(after) == need_of(name, words) + 30 < len(before)
    assert sorted(after.get_vocab().values()) == list(range(len(after)))
    found = link(before, after)
    assert found is not None
    assert list(found.teacher_ids) == sorted(found.teacher_ids)
    assert before.convert_ids_to_tokens(list(found.teacher_ids)) == after.convert_ids_to_tokens(range(len(after)))
    assert found.to_student(torch.tensor([found.teacher_ids])).tolist() == [list(range(len(after)))]
    assert after.special_tokens_map == before.special_tokens_map


@pytest.mark.parametrize(("name", "words"), EVERY)
def test_targets_are_the_same_tokens_and_used_tokens_leave_sources_alone(name: str, words: Words) -> None:
    before, data = small_tokenizer(name), data_of(name)
    own, _ = encode_records(before, PROMPT, data.records, LIMITS, data.kind)
    for more in (0, None):
        _, after, report = trimmed(name, words, more)
        found = link(before, after)
        assert found is not None and report.changed == ()
        new, _ = encode_records(after, PROMPT, data.records, LIMITS, data.kind)
        assert [found.to_teacher(each.target_ids) for each in new] == [each.target_ids for each in own]
        same = [found.to_teacher(each.prompt_ids) == each.prompt_ids for each in new]
        if more is None:
            assert [found.to_teacher(each.prompt_ids) for each in new] == [each.prompt_ids for each in own]
            assert (report.respelled, report.longer) == (0, 0.0)
        else:
            assert report.respelled > 0 and 0 < report.longer < 1 and not all(same)


@pytest.mark.parametrize(("name", "words"), EVERY)
def test_a_trimmed_student_is_a_plain_model_with_a_plain_tokenizer(name: str, words: Words, tmp_path: Path) -> None:
    model, tokenizer, report = trimmed(name, words)
    write_model(model, tokenizer, tmp_path)
    auto: Any = hf.AutoModelForSeq2SeqLM if model.config.is_encoder_decoder else hf.AutoModelForCausalLM
    again, read = auto.from_pretrained(tmp_path).eval(), hf.AutoTokenizer.from_pretrained(tmp_path)
    assert type(read) is type(tokenizer) and isinstance(read, hf.PreTrainedTokenizerFast)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("vocab") or path.suffix == ".model"]
    for record in texts()[:20]:
        assert ids(read, record.source) == ids(tokenizer, record.source)
    batch = torch.tensor([ids(tokenizer, texts()[0].targets[0])])
    written = model.generate(batch, max_new_tokens=5, do_sample=False)
    assert torch.equal(written, again.generate(batch, max_new_tokens=5, do_sample=False))
    assert int(written.max()) < model.config.vocab_size == report.kept
    for key in ("pad_token_id", "eos_token_id", "bos_token_id"):
        if (number := getattr(model.config, key, None)) is not None:
            assert number == getattr(tokenizer, key) == getattr(model.generation_config, key)
    assert report.parameters_after == sum(each.numel() for each in again.parameters()) < report.parameters_before


@pytest.mark.parametrize(("name", "words"), EVERY)
def test_logits_of_kept_ids_are_the_teachers(name: str, words: Words) -> None:
    """On a text that is the same tokens for both."""
    student, tokenizer, _ = trimmed(name, words)
    teacher, found = small_model(name), link(small_tokenizer(name), tokenizer)
    assert found is not None
    own = encode_records(tokenizer, PROMPT, texts()[:3], LIMITS, data_of(name).kind)[0]
    whole = [Encoded(each.id, found.to_teacher(each.prompt_ids), found.to_teacher(each.target_ids)) for each in own]
    expected_NV = logits(teacher, whole, teacher.config.pad_token_id)[:, list(found.teacher_ids)]
    assert (logits(student, own, student.config.pad_token_id) - expected_NV).abs().max() <= 1e-5


def logits(model: Any, examples: list[Encoded], pad: int = tiny.PAD) -> Tensor:
    family = family_of(model, pad_id=pad)
    with torch.no_grad():
        rows = family.rows(model, family.collate(examples))
        return rows.head.logits(rows.hidden_ND)


def renumbered(examples: list[Encoded]) -> list[Encoded]:
    new = {old: number for number, old in enumerate(KEPT)}
    return [
        Encoded(each.id, tuple(new[i] for i in each.prompt_ids), tuple(new[i] for i in each.target_ids))
        for each in examples
    ]


@pytest.mark.parametrize("name", [*tiny.BUILDERS, *tiny.OTHERS])
def test_every_family_keeps_its_rows(name: str, tmp_path: Path) -> None:
    teacher = tiny.tiny_model(name)
    # Marian's sinusoids are computed, not saved.
    computed = type(teacher)(teacher.config).named_parameters()
    fixed = {name: tensor for name, tensor in computed if not tensor.requires_grad}
    teacher.load_state_dict(fixed, strict=False)
    student: Any = keep_rows(teacher, KEPT)
    assert type(student) is type(teacher) and student.config.vocab_size == len(KEPT)
    assert teacher.config.vocab_size == tiny.PADDED_VOCABULARY
    assert (logits(student, renumbered(EXAMPLES)) - logits(teacher, EXAMPLES)[:, KEPT]).abs().max() <= 1e-5
    student.save_pretrained(tmp_path)
    auto: Any = hf.AutoModelForSeq2SeqLM if teacher.config.is_encoder_decoder else hf.AutoModelForCausalLM
    again = auto.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, renumbered(EXAMPLES)), logits(student, renumbered(EXAMPLES)))
    tied = {parameter.data_ptr() for parameter in teacher.parameters()}
    assert not tied & {parameter.data_ptr() for parameter in student.parameters()}
    rows = family_of(student, pad_id=0).rows(student, family_of(student, pad_id=0).collate(renumbered(EXAMPLES)))
    rows.head.logits(rows.hidden_ND).logsumexp(-1).sum().backward()
    assert student.get_input_embeddings().weight.grad.abs().sum() > 0


def test_keeping_all_rows_gives_the_same_model() -> None:
    teacher = tiny.tiny_model("bart")
    assert torch.equal(logits(keep_rows(teacher, range(264)), EXAMPLES), logits(teacher, EXAMPLES))


def test_ids_in_settings_follow_their_tokens() -> None:
    settings = hf.GenerationConfig(
        eos_token_id=[5, 9], bos_token_id=7, forced_bos_token_id=3, suppress_tokens=[9, 8], begin_suppress_tokens=[3],
        bad_words_ids=[[5], [5, 8], [7, 9]],
    )  # fmt: skip
    renumber(settings, {5: 0, 7: 1, 9: 2})
    assert (settings.eos_token_id, settings.bos_token_id, settings.forced_bos_token_id) == ([0, 2], 1, None)
    assert (settings.suppress_tokens, settings.begin_suppress_tokens) == ([2], [])
    assert settings.bad_words_ids == [[0], [1, 2]]


def test_one_vocabulary_for_each_side_is_refused() -> None:
    model = tiny.tiny_model("marian")
    model.config.decoder_vocab_size = 200
    with pytest.raises(ModelError, match="one vocabulary for its encoder and one for its decoder"):
        keep_rows(model, KEPT)


def test_the_most_frequent_tokens_of_the_sources_come_first() -> None:
    name = "byte-level"
    tokenizer = by_word(small_tokenizer(name), small_model(name).config)
    assert tokenizer is not None
    pieces = pieces_of(tokenizer)
    use = count_use(tokenizer, data_of(name))
    always = set(tokenizer.added_tokens_decoder)
    used = choose(pieces, use, always, None)
    least = need_of(name, "whole")
    sizes = [least, least + 10, len(used), len(tokenizer)]
    kept = [set(choose(pieces, use, always, size)) for size in sizes]
    assert [len(each) for each in kept] == sizes
    assert all(kept[0] <= each for each in kept)
    left_out = set(used) - kept[1]
    alone = {token: count for (token, joined), count in use.read.items() if not joined}
    best = max((alone[token] for token in left_out if token in alone), default=0)
    assert all(alone[token] >= best for token in kept[1] - kept[0] if token in alone)


@pytest.mark.parametrize("name", ["byte-level", "gpt2", "qwen", "gemma", "llama"])
def test_words_are_taken_as_they_are_and_nothing_else_changes(name: str) -> None:
    before, config = small_tokenizer(name), small_model(name).config
    after = by_word(before, config)
    assert after is not None and pieces_of(after).by_word and not pieces_of(before).by_word
    assert after.get_vocab() == before.get_vocab()
    for record in texts():
        assert ids(after, record.source) == ids(before, record.source)
        assert max(after(record.source).word_ids()[1:] or [0]) > 3
    assert by_word(after, config) is None and by_word(small_tokenizer("t5"), config) is None


def test_where_taking_words_changes_a_target_tokens_keep_their_parts() -> None:
    """A token that reaches across a space cannot be found in a text that is cut there."""
    name = "gemma"
    state = json.loads(small_tokenizer(name).backend_tokenizer.to_str())
    vocab, merges = state["model"]["vocab"], [tuple(pair) for pair in state["model"]["merges"]]
    across = [("e", "▁"), ("e▁", "a")]
    for left, right in across:
        vocab[left + right] = len(vocab)
    wide = hf.GemmaTokenizer(vocab=vocab, merges=[*across, *merges])
    model = small_model(name)
    records = [Record(str(n), "the cat", ("make a file",)) for n in range(3)]
    data = Texts(prompt=PROMPT, limits=LIMITS, kind="decoder-only", records=records)
    _, after, report = trim(model, wide, data, None, "whole")
    assert report.changed == () and report.respelled == 0 and isinstance(after, hf.GemmaTokenizer)
    assert "e▁a" in after.get_vocab()
    # Without room for the parts, the records are named instead.
    with pytest.raises(ConfigError, match=r"need \d+;") as refused:
        trim(model, wide, data, 1, "whole")
    least = int(re.findall(r"need (\d+)", str(refused.value))[0])
    _, _, report = trim(model, wide, data, least, "whole")
    assert report.changed == ("0", "1", "2") and report.kept == least
    assert "3 targets changed, such as '0'" in str(report)


def test_parts_take_room_that_whole_words_leave_to_others() -> None:
    name = "byte-level"
    assert need_of(name) > need_of(name, "whole")
    reports = [trim(small_model(name), small_tokenizer(name), data_of(name), TOKENS, words)[2] for words in WAYS]
    assert reports[0].kept == reports[1].kept == TOKENS and reports[0].longer > reports[1].longer > 0


def test_special_names_are_kept_also_those_left_free_for_later() -> None:
    tokenizer = copy.deepcopy(small_tokenizer("byte-level"))
    tokenizer.add_special_tokens({"extra_special_tokens": ["<unused0>", "<|reserved_special_token_1|>", "<sep>"]})
    records = [Record("a", "one <unused0>", ("two",))]
    data = Texts(prompt=PROMPT, limits=LIMITS, kind="decoder-only", records=records)
    _, after, report = trim(small_model("byte-level"), tokenizer, data, None)
    assert report.respelled == 0 and report.kept == len(after)
    assert report.special == len(tokenizer.added_tokens_decoder) == 7 and "7 of them special" in str(report)
    assert [name in after.get_vocab() for name in ("<unused0>", "<|reserved_special_token_1|>", "<sep>")] == [1, 1, 1]
    assert after.decode(ids(after, "a <|reserved_special_token_1|>")) == "a <|reserved_special_token_1|>"


def test_a_merged_token_has_its_parts() -> None:
    pieces = pieces_of(small_tokenizer("byte-level"))
    token = max(pieces.ids, key=len)
    parts = pieces.parts(token)
    assert token in parts and set(token) <= parts
    for part in parts:
        assert len(part) == 1 or any(part[:cut] in parts and part[cut:] in parts for cut in range(1, len(part)))
    new = {part: number for number, part in enumerate(sorted(parts, key=pieces.ids.__getitem__))}
    state = pieces.keeping(new)
    assert len(state["merges"]) >= len([part for part in parts if len(part) > 1])


def test_what_cannot_be_trimmed_is_refused_in_one_line() -> None:
    from tokenizers import Tokenizer, models

    words = hf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    marked = hf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [], end_of_word_suffix="</w>")))
    for tokenizer, says in ((words, "of type WordLevel"), (hf.ByT5Tokenizer(), "ByT5Tokenizer"), (marked, "</w>")):
        with pytest.raises(ModelError, match=says) as caught:
            pieces_of(tokenizer)
        assert "\n" not in str(caught.value) and "leave student.vocabulary out" in str(caught.value)


@pytest.mark.parametrize("detail", ["default", "fine"])
def test_labels_are_read_in_the_students_ids(detail: Any, tmp_path: Path) -> None:
    """The teacher's distribution over what the student knows, and the rest of its mass on nothing that it knows."""
    name = "byte-level"
    student, after, _ = trimmed(name)
    before, teacher, data = small_tokenizer(name), small_model(name), data_of(name)
    found = link(before, after)
    assert found is not None
    whole, own = (encode_records(each, PROMPT, data.records, LIMITS, data.kind)[0] for each in (before, after))
    codec = Codec.of(detail, teacher.config.vocab_size)
    write_labels(Teacher(model=teacher, family=family_of(teacher)), whole, tmp_path, codec=codec, made_from={})
    store = LabelStore(tmp_path, expect={}, temperature=1.0)
    labels = LinkedLabels(store, found, whole)
    assert all(labels.fits(each) for each in own)
    assert not labels.fits(Encoded(own[0].id, own[0].prompt_ids, own[0].target_ids[1:]))
    chosen = [5, 2, 9]
    ids_NK, probs_NK = labels.read([own[place] for place in chosen])
    theirs_NK, their_probs_NK = store.read([whole[place] for place in chosen])
    back_NK = torch.tensor((*found.teacher_ids, -1))[ids_NK]
    lacking_NK = ~torch.isin(theirs_NK, torch.tensor(found.teacher_ids)) & (theirs_NK >= 0)
    assert lacking_NK.any() and torch.equal(back_NK, theirs_NK.masked_fill(lacking_NK, -1))
    assert torch.equal(probs_NK, their_probs_NK) and int(ids_NK.max()) < student.config.vocab_size
    with pytest.raises(LabelError, match="another prompt or source"):
        LinkedLabels(store, found, [Encoded(each.id, each.prompt_ids[1:], each.target_ids) for each in whole]).read(own)


def test_mass_of_missing_ids_goes_to_the_rest_of_the_students() -> None:
    """The loss is the divergence over {known label ids, everything else}, with the missing mass on everything else."""
    torch.manual_seed(0)
    hidden_ND, weight_VD = torch.randn(1, 4, dtype=torch.float64), torch.randn(6, 4, dtype=torch.float64)
    ids_NK, probs_NK = torch.tensor([[12, 30, 11]]), torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    mapped_NK = Link((10, 11, 12, 13, 14, 15)).to_student(ids_NK)
    assert mapped_NK.tolist() == [[2, -1, 1]]
    loss = row_loss(
        hidden_ND, weight_VD, torch.tensor([2]), mix=Mix(soft=1.0, hard=0.0),
        labels=SparseLabels(ids_NK=mapped_NK, probs_NK=probs_NK),
    )  # fmt: skip
    q_V = (hidden_ND @ weight_VD.T).softmax(-1)[0]
    p_C, q_C = torch.tensor([0.5, 0.2, 0.3]).double(), torch.stack([q_V[2], q_V[1], q_V[[0, 3, 4, 5]].sum()])
    assert loss.soft == pytest.approx(float((p_C * (p_C / q_C).log()).sum()), abs=1e-7)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"vocabulary": {"tokens": 0}}, "greater than 0"),
        ({"vocabulary": {"tokens": "usd"}}, "used"),
        ({"vocabulary": {}}, "vocabulary.tokens: missing"),
        ({"vocabulary": {"token": 5}}, "did you mean 'tokens'"),
    ],
)
def test_recipes_are_checked(section: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(StudentConfig, section)


def test_tokens_alone_make_a_student() -> None:
    assert StudentConfig.model_validate({"vocabulary": {"tokens": "used"}}).layers is None


def make_project(folder: Path, name: str, kind: str, **sections: Any) -> Path:
    """A project whose teacher is a small model with a vocabulary that is worth trimming."""
    write_model_once(folder.parent / name, name)
    teacher = {"model": str(folder.parent / name), "teach": None}
    student = {"layers": 1, "calibration": 4, "vocabulary": {"tokens": TOKENS}}
    return project(folder, kind, pairs=60, teacher=teacher, student=student, **sections)


def write_model_once(folder: Path, name: str) -> None:
    if not folder.exists():
        folder.mkdir(parents=True)
        write_model(small_model(name), small_tokenizer(name), folder)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "kind"), [("t5", "t5"), ("byte-level", "llama")])
def test_a_whole_run_with_fewer_tokens(name: str, kind: str, tmp_path: Path) -> None:
    """Through labels of gold targets (T5), and through a teacher's own outputs, whose tokens are kept too (Llama)."""
    folder = make_project(tmp_path / "project", name, kind)
    # Its teacher has random weights, which `instil check` would refuse.
    ended = instil("run", "recipe.yaml", "--no-check", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    kept = f"keeps {TOKENS} of {small_model(name).config.vocab_size:,} tokens, "
    assert kept in ended.err and " of them special; targets unchanged" in ended.err
    result = json.loads((finished(folder, "student") / "manifest.json").read_text())["result"]
    assert result["vocabulary"]["kept"] == TOKENS and result["vocabulary"]["changed"] == []
    for stage in ("student", "distil", "distil-without-teacher"):
        place = finished(folder, stage) / "model"
        assert json.loads((place / "config.json").read_text())["vocab_size"] == TOKENS
        assert len(hf.AutoTokenizer.from_pretrained(place)) == TOKENS
    summary = json.loads(ended.out)
    assert summary["student"]["n"] == 6 and summary["student"]["parameters"] < summary["teacher"]["parameters"]
    # The same student, given as a model of its own, is known as one of the teacher's kin.
    own = str(finished(folder, "distil") / "model")
    (folder / "own.yaml").write_text((folder / "recipe.yaml").read_text().replace("name: " + kind, "name: own"))
    changes = (f"student={{model: {own}}}", "distil.without_teacher=false")
    ended = instil("distil", "own.yaml", *(part for change in changes for part in ("--set", change)), cwd=folder)
    assert ended.code == 0, ended.err
    assert "left out" not in ended.err


@pytest.mark.timeout(300)
def test_records_whose_target_the_student_cannot_write_the_same_way_are_named(tmp_path: Path) -> None:
    """A student that was cut for other texts learns from the records that still fit."""
    name = "byte-level"
    folder = make_project(tmp_path / "project", name, "llama", labels={"targets": "gold"})
    pairs = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    known = [record for record in texts() if "Python" in record.targets[0]][:8]
    other = [
        {"id": f"other-{number}", "source": "big red dog", "target": each.targets[0]}
        for number, each in enumerate(known)
    ]
    records = [Record(row["id"], row["source"], (row["target"],)) for row in pairs]
    data = Texts(prompt=Prompt(text="sum: "), limits=LIMITS, kind="decoder-only", records=records)
    model, tokenizer, _ = trim(small_model(name), small_tokenizer(name), data, None)
    (tmp_path / "own").mkdir()
    write_model(model, tokenizer, tmp_path / "own")
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*pairs, *other)))
    ended = instil("distil", "recipe.yaml", "--set", f"student={{model: {tmp_path / 'own'}}}", cwd=folder)
    assert ended.code == 0, ended.err
    assert "records are left out, their targets are other tokens for the student: other-" in ended.err
    result = json.loads((finished(folder, "distil") / "manifest.json").read_text())["result"]
    assert 0 < len(result["left_out"]) <= 8 and all(record.startswith("other-") for record in result["left_out"])
