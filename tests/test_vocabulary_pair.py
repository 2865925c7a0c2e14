"""Smaller vocabularies for Marian's pair of SentencePiece models and their table."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor

import tiny
from command import instil
from instil.core.errors import ConfigError, ModelError
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.tokens import Encoded, Limits, encode_records
from instil.models.family import family_of
from instil.models.folders import write_model
from instil.models.loading import load_model
from instil.models.students.vocabulary.choose import Texts
from instil.models.students.vocabulary.link import link
from instil.models.students.vocabulary.pair import Pair, pair_of
from instil.models.students.vocabulary.rewrite import by_word, keep_tokens, pieces_of
from instil.models.students.vocabulary.trim import VocabularyReport, trim
from project import finished, project
from small import texts

pytest.importorskip("sentencepiece")

LIMITS = Limits(source=50, target=40)
PROMPT = Prompt(kind="template", text="{source}")
RECORDS = 40
CODES = (">>fra<<", ">>deu<<")
ENDS = ("</s>", "<unk>")


def learned(corpus: list[str], size: int) -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(corpus, trainer)
    return [(piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"] if piece != "<unk>"]


def message(pieces: list[tuple[str, float]]) -> Any:
    """A SentencePiece model of these pieces, which leaves texts as they are but for spaces."""
    from transformers.convert_slow_tokenizer import import_protobuf

    found = import_protobuf().ModelProto()
    for name, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        found.pieces.add(piece=name, score=0.0, type=kind)
    for name, score in pieces:
        found.pieces.add(piece=name, score=score, type=1)
    found.trainer_spec.model_type = 1
    found.normalizer_spec.name = "identity"
    found.normalizer_spec.add_dummy_prefix = found.normalizer_spec.remove_extra_whitespaces = True
    return found


def write_pair(folder: Path, source: Any, target: Any, table: dict[str, int], **settings: Any) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.spm").write_bytes(source.SerializeToString())
    (folder / "target.spm").write_bytes(target.SerializeToString())
    (folder / "vocab.json").write_text(json.dumps(table))
    names = {"source_spm": "source.spm", "target_spm": "target.spm", "vocab": "vocab.json"}
    return hf.MarianTokenizer(**{key: str(folder / name) for key, name in names.items()}, **settings)


@functools.cache
def parts(*, unnumbered: int = 0) -> tuple[Any, Any, dict[str, int]]:
    """The models of sources and of targets, and the table of both: the padding stands at its end, as Marian has it. Of
    the longer pieces so many, from the middle by score, have no number."""
    both = [
        learned([record.source[:400] for record in texts()], 900),
        learned([record.targets[0] for record in texts()], 500),
    ]
    every = dict.fromkeys(piece for pieces in both for piece, _ in pieces)
    long = [piece for piece, _ in sorted(both[0], key=lambda entry: -entry[1]) if len(piece) > 2]
    for piece in long[len(long) // 2 :][:unnumbered]:
        del every[piece]
    names = [*ENDS, *CODES, *every, "reached by nothing", "<pad>"]
    return message(both[0]), message(both[1]), {name: number for number, name in enumerate(names)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A teacher and its tokenizer."""
    tokenizer = write_pair(tmp_path_factory.mktemp("marian"), *parts(), source_lang="en", target_lang="fr")
    config = tiny.tiny_model("marian").config
    config.vocab_size = config.decoder_vocab_size = len(tokenizer)
    config.pad_token_id = config.decoder_start_token_id = tokenizer.pad_token_id
    config.eos_token_id = config.bos_token_id = config.forced_eos_token_id = tokenizer.eos_token_id
    torch.manual_seed(0)
    model = hf.MarianMTModel(config)
    computed = {name: each.clone() for name, each in model.named_parameters() if not each.requires_grad}
    model = tiny.scatter(model).eval()
    model.load_state_dict(computed, strict=False)
    model.generation_config.bad_words_ids = [[tokenizer.pad_token_id]]
    return model, tokenizer


def data_of(records: list[Record]) -> Texts:
    return Texts(prompt=PROMPT, limits=LIMITS, kind="encoder-decoder", records=records)


def need_of(whole: tuple[Any, Any]) -> int:
    with pytest.raises(ConfigError, match="give") as caught:
        trim(*whole, data_of(texts()[:RECORDS]), 1)
    return int(str(caught.value).split()[-3])


@pytest.fixture(scope="module")
def trimmed(whole: tuple[Any, Any]) -> tuple[Any, Any, VocabularyReport]:
    """Cut to what must be kept and 30 pieces."""
    return trim(*whole, data_of(texts()[:RECORDS]), need_of(whole) + 30)


def ids(tokenizer: Any, text: str, *, target: bool = False) -> list[int]:
    return list((tokenizer(text_target=text) if target else tokenizer(text))["input_ids"])


@given(text=st.text(max_size=60) | st.sampled_from([record.source for record in texts()]))
@example(text="Ünïcode ▁ 漢字 🙂 and\n\n  spaces\t<unk> </s>")
@example(text=">>fra<< a library for reading libraries, recombination of distillation")
@settings(max_examples=100, deadline=None)
def test_every_text_comes_out_as_before(whole: Any, trimmed: Any, text: str) -> None:
    (_, before), (_, after, _) = whole, trimmed
    for cleaned in (False, True):
        assert after.decode(ids(after, text), skip_special_tokens=cleaned) == before.decode(
            ids(before, text), skip_special_tokens=cleaned
        )


def test_the_new_ids_are_the_old_tokens_in_their_order(whole: Any, trimmed: Any) -> None:
    (_, before), (model, after, report) = whole, trimmed
    assert 0 < report.kept == len(after) == need_of(whole) + 30 < len(before) == report.of
    assert sorted(after.get_vocab().values()) == list(range(len(after)))
    found = link(before, after)
    assert found is not None and list(found.teacher_ids) == sorted(found.teacher_ids)
    assert before.convert_ids_to_tokens(list(found.teacher_ids)) == after.convert_ids_to_tokens(range(len(after)))
    assert after.special_tokens_map == before.special_tokens_map
    assert set(CODES) <= after.get_vocab().keys() and after.supported_language_codes == list(CODES)
    pad = after.pad_token_id
    assert pad == len(after) - 1 == model.config.pad_token_id == model.config.decoder_start_token_id
    assert model.generation_config.bad_words_ids == [[pad]] and model.config.eos_token_id == after.eos_token_id == 0
    assert model.final_logits_bias.shape == (1, len(after)) and model.config.decoder_vocab_size == len(after)
    # Sources and targets have models of their own, each without what is gone.
    for old, new in zip(pair_of(before).models, pair_of(after).models, strict=True):
        assert len(new.pieces) < len(old.pieces)
        left = {entry.piece for entry in new.pieces if entry.type == 1 and len(entry.piece) > 1}
        assert left <= after.get_vocab().keys()
        scores = {entry.piece: entry.score for entry in old.pieces}
        assert all(entry.score == scores[entry.piece] for entry in new.pieces)


@pytest.mark.parametrize("used", [False, True])
def test_targets_are_the_same_tokens_and_used_tokens_leave_sources_alone(whole: Any, trimmed: Any, used: bool) -> None:
    (_, before), data = whole, data_of(texts()[:RECORDS])
    _, after, report = trim(*whole, data, None) if used else trimmed
    own, new = (encode_records(each, PROMPT, data.records, LIMITS, data.kind)[0] for each in (before, after))
    found = link(before, after)
    assert found is not None and report.changed == () and report.parameters_after < report.parameters_before
    assert [found.to_teacher(each.target_ids) for each in new] == [each.target_ids for each in own]
    same = [found.to_teacher(each.prompt_ids) == old.prompt_ids for each, old in zip(new, own, strict=True)]
    if used:
        assert all(same) and (report.respelled, report.longer) == (0, 0.0)
    else:
        assert not all(same) and report.respelled > 0 and 0 < report.longer < 1


def test_a_trimmed_student_is_a_plain_model_with_a_plain_tokenizer(trimmed: Any, tmp_path: Path) -> None:
    model, tokenizer, report = trimmed
    write_model(model, tokenizer, _made(tmp_path / "one"))
    again: Any = hf.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "one").eval()
    read: Any = hf.AutoTokenizer.from_pretrained(tmp_path / "one")
    assert type(read) is type(tokenizer) is hf.MarianTokenizer and len(read) == report.kept
    assert read.added_tokens_decoder == tokenizer.added_tokens_decoder
    for record in texts()[:20]:
        assert ids(read, record.source) == ids(tokenizer, record.source)
        assert ids(read, record.targets[0], target=True) == ids(tokenizer, record.targets[0], target=True)
    batch = read([record.source[:80] for record in texts()[:3]], padding=True, return_tensors="pt")
    written = model.generate(**batch, max_new_tokens=8, num_beams=2)
    assert torch.equal(written, again.generate(**batch, max_new_tokens=8, num_beams=2))
    assert int(written.max()) < model.config.vocab_size == report.kept
    # Once more through instil, and written from there.
    loaded = load_model(str(tmp_path / "one"))
    write_model(loaded.model, loaded.tokenizer, _made(tmp_path / "two"))
    assert (tmp_path / "one" / "target.spm").read_bytes() == (tmp_path / "two" / "target.spm").read_bytes()
    assert hf.AutoTokenizer.from_pretrained(tmp_path / "two").get_vocab() == tokenizer.get_vocab()


def logits(model: Any, examples: list[Encoded]) -> Tensor:
    family = family_of(model, pad_id=model.config.pad_token_id)
    with torch.no_grad():
        rows = family.rows(model, family.collate(examples))
        return rows.head.logits(rows.hidden_ND)


def test_logits_of_kept_ids_are_the_teachers(whole: Any, trimmed: Any, tmp_path: Path) -> None:
    """On texts that are the same tokens for both, of the student as it is read from its folder."""
    (teacher, before), (student, after, _) = whole, trimmed
    write_model(student, after, tmp_path)
    again: Any = hf.AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    found = link(before, after)
    assert found is not None
    own = encode_records(after, PROMPT, texts()[:3], LIMITS, "encoder-decoder")[0]
    teachers = [Encoded(each.id, found.to_teacher(each.prompt_ids), found.to_teacher(each.target_ids)) for each in own]
    expected_NV = logits(teacher, teachers)[:, list(found.teacher_ids)]
    assert (logits(again, own) - expected_NV).abs().max() <= 1e-5


def test_pieces_without_a_number_leave_their_text_to_be_spelled(tmp_path: Path) -> None:
    before = write_pair(tmp_path, *parts(unnumbered=3))
    pair = pair_of(before)
    lost = [entry.piece for entry in pair.models[0].pieces if entry.piece not in pair.ids and entry.type == 1]
    kept = sorted({0, 1, before.pad_token_id, *(pair.ids[piece] for piece in pair.atoms())})
    after = keep_tokens(before, tiny.tiny_model("marian").config, kept)
    assert len(lost) == 3 and before.unk_token_id in ids(before, lost[0].replace("▁", " "))
    for piece in lost:
        text = piece.replace("▁", " ").strip()
        found = ids(after, text)
        assert after.unk_token_id not in found and after.decode(found, skip_special_tokens=True) == text


def test_what_neither_model_proposes_is_not_kept_but_languages_are(whole: Any, trimmed: Any) -> None:
    (_, before), (_, after, _) = whole, trimmed
    pair = pair_of(before)
    assert not pair.parts("reached by nothing") and "reached by nothing" not in after.get_vocab()
    assert set(CODES) <= pair.atoms() and pair.parts("▁the") == {"▁the"}
    assert by_word(before, tiny.tiny_model("marian").config) is None


def test_a_piece_stays_where_a_character_of_it_has_no_number() -> None:
    source = message([("a", -1.0), ("b", -2.0), ("ab", -3.0), ("bc", -4.0), ("c", -5.0), ("abb", -6.0), ("bb", -9.0)])
    pair = Pair({"a": 0, "b": 1, "ab": 2, "bc": 3, "abb": 4, "bb": 5}, (source, source))
    assert pair.atoms() == {"a", "b", "bc", "bb"}
    source.self_test_data.samples.add(input="abb", expected="abb")
    files = pair.keeping({piece: number for number, piece in enumerate(["a", "b", "bc", "bb"])})
    left = type(source).FromString(files["source.spm"])
    assert [entry.piece for entry in left.pieces][3:] == ["a", "b", "bc", "c", "bb"]
    assert not left.self_test_data.samples and source.self_test_data.samples
    assert json.loads(files["vocab.json"]) == {"a": 0, "b": 1, "bc": 2, "bb": 3}


def test_a_run_that_only_the_other_model_has_stays_where_a_target_has_it(tmp_path: Path) -> None:
    """It is unknown but for the table: the target's model, which lacks its characters, proposes it as one."""
    letters = [("▁", -1.0), *((letter, -2.0) for letter in "abc"), ("ab", -3.0)]
    source = message([*letters, ("漢", -4.0), ("字", -4.0), ("漢字", -5.0), ("字漢", -6.0), ("cc", -7.0)])
    table = {
        name: number for number, name in enumerate([*ENDS, *(entry.piece for entry in source.pieces[3:]), "<pad>"])
    }
    before = write_pair(tmp_path, source, message(letters), table)
    config = tiny.tiny_model("marian").config
    config.vocab_size = config.decoder_vocab_size = len(table)
    config.pad_token_id = config.decoder_start_token_id = before.pad_token_id
    config.eos_token_id, config.bos_token_id = 0, None
    _, after, report = trim(hf.MarianMTModel(config), before, data_of([Record("one", "ab", ("ab 漢字",))]), None)
    assert report.changed == () and {"漢字", "漢", "字"} <= after.get_vocab().keys()
    assert before.unk_token_id in ids(before, "漢字漢", target=True) and "字漢" not in after.get_vocab()
    assert after.decode(ids(after, "ab 字漢"), skip_special_tokens=True) == "ab 字漢"


def test_tokens_that_were_added_follow(tmp_path: Path) -> None:
    tokenizer = write_pair(tmp_path, *parts())
    tokenizer.add_tokens(["<sep>", "<new>"])
    kept = [*range(40), *range(len(tokenizer) - 3, len(tokenizer))]
    after = keep_tokens(tokenizer, tiny.tiny_model("marian").config, kept)
    assert (after.pad_token_id, ids(after, "<new>")[0], len(after)) == (40, 42, 43)


def test_what_cannot_be_trimmed_is_refused_in_one_line(tmp_path: Path) -> None:
    source, target, table = parts()
    pairs = type(source).FromString(target.SerializeToString())
    pairs.trainer_spec.model_type = 2
    tokenizer = write_pair(tmp_path / "one", source, target, table)
    tokenizer.spm_target.serialized_model_proto = pairs.SerializeToString
    both = write_pair(tmp_path / "two", source, target, table)
    both.separate_vocabs = True
    for each, says in ((tokenizer, "target.spm is not of type Unigram"), (both, "one for targets")):
        with pytest.raises(ModelError, match=says) as caught:
            pieces_of(each)
        assert "\n" not in str(caught.value) and "leave student.vocabulary out" in str(caught.value)


@pytest.mark.timeout(300)
def test_a_whole_run_with_fewer_tokens(whole: Any, tmp_path: Path) -> None:
    write_model(*whole, _made(tmp_path / "teacher"))
    student = {"layers": 1, "calibration": 4, "vocabulary": {"tokens": 500}}
    teacher = {"model": str(tmp_path / "teacher"), "teach": None}
    folder = project(tmp_path / "project", "t5", pairs=60, teacher=teacher, student=student)
    ended = instil("run", "recipe.yaml", "--no-check", "--json", cwd=folder)
    assert ended.code == 0, ended.err
    assert "keeps 500 of " in ended.err and " of them special; targets unchanged" in ended.err
    for stage in ("student", "distil"):
        place = finished(folder, stage) / "model"
        assert json.loads((place / "config.json").read_text())["vocab_size"] == 500
        assert len(hf.AutoTokenizer.from_pretrained(place)) == 500


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
