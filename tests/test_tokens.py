"""From text to token ids: only the source is ever cut, at a whole character; the end token says that nothing was."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import tiny
from instil.core.errors import ConfigError, DataError, InstilError
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.tokens import Encoded, Kind, Limits, Truncation, cut_sources, encode_prompt, encode_records

KINDS: tuple[Kind, ...] = ("encoder-decoder", "decoder-only")
TOKENIZERS = {kind: tiny.tiny_tokenizer(kind) for kind in KINDS}
TEMPLATE = Prompt(kind="template", text="Text: {source}\nSummary:")
CHAT = Prompt(kind="chat", text="Sum up: {source}", system="Be brief.")
CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
CORPUS = [
    "the cat sat on the mat",
    "a distilled model is a small model",
    "naïve café – 10 € or ½ of it …",
    "日本語の文",
]


def pieces_tokenizer(kind: str) -> Any:
    """Tokenizers of other makes, trained on a few lines: `bpe` on bytes, `unigram` on words with a normaliser."""
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=330, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), special_tokens=["</s>"]
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=["</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS * 5, trainer)
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="</s>")


MAKES = {"bytes": TOKENIZERS["decoder-only"], "bpe": pieces_tokenizer("bpe"), "unigram": pieces_tokenizer("unigram")}


def count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def text_of(tokenizer: Any, ids: tuple[int, ...] | list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def encode(
    source: str, target: str, *, prompt: Prompt = TEMPLATE, kind: Kind = "decoder-only", source_limit: int = 100,
    target_limit: int = 100,
) -> tuple[Encoded, Truncation]:  # fmt: skip
    limits = Limits(source=source_limit, target=target_limit)
    examples, cut = encode_records(TOKENIZERS[kind], prompt, [Record("r", source, (target, "other"))], limits, kind)
    return examples[0], cut


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_target_as_the_model_meets_them(kind: Kind) -> None:
    example, cut = encode("some source", "its target", kind=kind)
    tokenizer = TOKENIZERS[kind]
    prompt_end = (tiny.END,) if kind == "encoder-decoder" else ()
    assert text_of(tokenizer, example.prompt_ids) == "Text: some source\nSummary:"
    assert example.prompt_ids[len(example.prompt_ids) - len(prompt_end) :] == prompt_end
    assert example.prompt_ids.count(tiny.END) == len(prompt_end)
    # A decoder-only model writes the space that parts target from prompt.
    assert text_of(tokenizer, example.target_ids) == ("its target" if kind == "encoder-decoder" else " its target")
    assert example.target_ids[-1] == tiny.END and example.target_ids.count(tiny.END) == 1
    assert example.length == len(example.prompt_ids) + len(example.target_ids)
    assert (cut.examples, cut.sources, cut.targets) == (1, 0, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [1, 4, 10])
def test_a_cut_source_leaves_the_prompt_whole(kind: Kind, limit: int) -> None:
    example, cut = encode("0123456789ABCDEF", "t", kind=kind, source_limit=limit)
    assert text_of(TOKENIZERS[kind], example.prompt_ids) == f"Text: {'0123456789ABCDEF'[:limit]}\nSummary:"
    assert (cut.sources, cut.targets) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_target_has_no_end_token(kind: Kind) -> None:
    whole, cut = encode("s", "four", kind=kind, target_limit=6)
    assert whole.target_ids[-1] == tiny.END and cut.targets == 0
    short, cut = encode("s", "too long a target", kind=kind, target_limit=6)
    assert len(short.target_ids) == 6 and tiny.END not in short.target_ids and cut.targets == 1


def test_cuts_are_counted() -> None:
    records = [Record(str(number), "x" * number, ("y" * number,)) for number in range(1, 11)]
    _, cut = encode_records(TOKENIZERS["decoder-only"], TEMPLATE, records, Limits(source=8, target=5), "decoder-only")
    assert (cut.examples, cut.sources, cut.targets) == (10, 2, 7)
    assert str(cut) == "of 10 examples, 2 (20.0%) sources and 7 (70.0%) targets were cut"
    assert str(Truncation()) == "of 0 examples, 0 (0.0%) sources and 0 (0.0%) targets were cut"


@pytest.mark.parametrize("make", MAKES)
@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    source=st.text(st.sampled_from("the cat sdmo.€½…日本語🙂é\ufdfa \n"), max_size=40),
    limit=st.integers(1, 12),
)
def test_a_cut_source_is_a_prefix_within_the_limit(make: str, source: str, limit: int) -> None:
    tokenizer = MAKES[make]
    ((kept, was_cut),) = cut_sources(tokenizer, [source], limit)
    assert source.startswith(kept)
    assert count(tokenizer, kept) <= limit
    assert was_cut == (count(tokenizer, source) > limit) and (was_cut or kept == source)


def test_characters_of_several_tokens_are_kept_whole_or_left_out() -> None:
    tokenizer = TOKENIZERS["decoder-only"]
    kept = [cut_sources(tokenizer, ["ab€🙂c"], limit)[0][0] for limit in range(1, 12)]
    assert kept == ["a", "ab", "ab", "ab", "ab€", "ab€", "ab€", "ab€", "ab€🙂", "ab€🙂c", "ab€🙂c"]


@pytest.mark.parametrize("make", MAKES)
def test_a_long_enough_limit_cuts_nothing(make: str) -> None:
    for line in CORPUS:
        assert cut_sources(MAKES[make], [line], count(MAKES[make], line)) == [(line, False)]


@pytest.mark.parametrize(
    "source", ["plain", "naïve – 10 €", "日本語🙂", 'quotes " and {braces} {source}', "tab\tline\n"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back_as_it_went_in(source: str, kind: Kind) -> None:
    example, _ = encode(source, source, kind=kind)
    space = "" if kind == "encoder-decoder" else " "
    assert text_of(TOKENIZERS[kind], example.prompt_ids) == f"Text: {source}\nSummary:"
    assert text_of(TOKENIZERS[kind], example.target_ids) == space + source


def chat_tokenizer() -> Any:
    tokenizer = tiny.tiny_tokenizer("decoder-only")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def test_the_chat_template_writes_its_own_special_tokens() -> None:
    tokenizer = chat_tokenizer()
    ids = encode_prompt(tokenizer, CHAT, "the text", None, "decoder-only")
    assert tokenizer.decode(ids) == "<s>system: Be brief.</s><s>user: Sum up: the text</s><s>assistant: "
    assert ids.count(tiny.BEGIN) == 3 and ids.count(tiny.END) == 2
    short = encode_prompt(tokenizer, CHAT, "the text", 3, "decoder-only")
    assert tokenizer.decode(short) == "<s>system: Be brief.</s><s>user: Sum up: the</s><s>assistant: "


def test_a_chat_that_ends_with_the_end_token_keeps_it() -> None:
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}</s>"
    assert encode_prompt(tokenizer, Prompt(kind="chat", text="{source}"), "x", None, "decoder-only")[-1] == tiny.END


def test_chat_without_a_template_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no chat template; use prompt kind template instead"):
        encode_prompt(TOKENIZERS["decoder-only"], CHAT, "x", None, "decoder-only")


def test_an_end_token_that_the_tokenizer_adds_does_not_end_a_decoder_only_prompt() -> None:
    ids = encode_prompt(TOKENIZERS["encoder-decoder"], TEMPLATE, "x", None, "decoder-only")
    assert tiny.END not in ids


def test_an_encoder_decoder_target_gets_its_end_token_from_us_if_not_from_its_tokenizer() -> None:
    """Gemma's tokenizer, which T5Gemma uses, adds none."""
    records = [Record("r", "s", ("t",))]
    examples, _ = encode_records(
        TOKENIZERS["decoder-only"], TEMPLATE, records, Limits(source=9, target=9), "encoder-decoder"
    )
    assert examples[0].target_ids == (tiny.FIRST_BYTE + sorted_bytes().index("t"), tiny.END)


def sorted_bytes() -> list[str]:
    return sorted(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_without_an_end_token_is_refused(kind: Kind) -> None:
    tokenizer = tiny.tiny_tokenizer("decoder-only")
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="no end token") as caught:
        encode_records(tokenizer, TEMPLATE, [Record("r", "s", ("t",))], Limits(source=9, target=9), kind)
    assert isinstance(caught.value, InstilError)


@pytest.mark.parametrize(
    ("prompt", "separator"),
    [
        (Prompt(), " "),
        (Prompt(kind="prefix", text="summarize: "), " "),
        (TEMPLATE, " "),
        (Prompt(kind="template", text="{source}"), " "),
        (Prompt(kind="template", text="{source}\n\n"), ""),
        (Prompt(kind="template", text="{source} = "), ""),
        (CHAT, ""),
    ],
)
def test_prompt_and_target_are_parted_by_one_blank(prompt: Prompt, separator: str) -> None:
    assert prompt.separator == separator


def test_prefix_stands_before_the_source() -> None:
    example, _ = encode("text", "t", prompt=Prompt(kind="prefix", text="summarize: "))
    assert text_of(TOKENIZERS["decoder-only"], example.prompt_ids) == "summarize: text"
    assert text_of(TOKENIZERS["decoder-only"], example.target_ids) == " t"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "template", "text": "no slot"}, 'a template prompt needs "{source}" exactly once'),
        ({"kind": "chat", "text": "{source} {source}"}, 'a chat prompt needs "{source}" exactly once'),
        ({"kind": "prefix", "text": "", "system": "x"}, "system is only for chat prompts"),
    ],
)
def test_prompts_that_cannot_work_are_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Prompt(**fields)  # type: ignore[arg-type]
