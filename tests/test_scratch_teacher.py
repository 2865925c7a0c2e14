"""Teachers from scratch: of any architecture that is named, taught, cut; and the recipe that makes a T5 that way."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml

from command import instil
from instil.core.errors import ConfigError, ModelError
from instil.models.family import family_of
from instil.models.folders import auto_class
from instil.models.students.anatomy import ANATOMIES
from instil.models.students.new_tokenizer import make_tokenizer
from instil.models.students.plan import Widths
from instil.models.students.scratch import from_scratch, kind_of, pattern
from instil.run.recipe_file import read_recipe
from project import project
from test_scratch import TEXTS
from test_students import EXAMPLES, logits, sides

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "rnnlg-t5.yaml"
TINY = Widths(hidden=16, feed_forward=24, heads=2)


@pytest.mark.parametrize("name", sorted(ANATOMIES))
def test_every_architecture_can_be_made_from_its_name(name: str, tmp_path: Path) -> None:
    kind = kind_of(name)
    tokenizer = make_tokenizer(TEXTS, 280, kind)
    layers = {"encoder": 2, "decoder": 3} if kind == "encoder-decoder" else {"decoder": 2}
    model: Any = from_scratch(pattern(name, tokenizer), layers, TINY, seed=3)[0]
    assert model.config.vocab_size == len(tokenizer) and set(sides(model)) == set(layers)
    assert (model.config.eos_token_id, model.generation_config.eos_token_id) == (1, 1)
    family = family_of(model)
    rows = family.rows(model, family.collate(EXAMPLES))
    rows.head.logits(rows.hidden_ND).logsumexp(-1).sum().backward()
    model.save_pretrained(tmp_path)
    again = auto_class(kind).from_pretrained(tmp_path).eval()
    written = again.generate(**tokenizer(["the dog"], return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert written.shape[1] > 1 and not model.generation_config.to_dict().get("forced_eos_token_id")
    assert type(again) is type(model) and torch.equal(logits(again), logits(model.eval()))


def test_the_tokenizer_writes_any_text_and_comes_out_the_same_twice(tmp_path: Path) -> None:
    one, again = (make_tokenizer(iter(TEXTS), 290, "encoder-decoder") for _ in range(2))
    assert one.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    one.save_pretrained(tmp_path)
    read = hf.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, "words never seen: żółw 😀", "call 415986"):
        assert read(text)["input_ids"][-1] == read.eos_token_id
        assert read.decode(read(text)["input_ids"], skip_special_tokens=True) == text
    assert read.tokenize("415986") == list("415986")
    assert make_tokenizer(TEXTS, 290, "decoder-only")("dog")["input_ids"][-1] != read.eos_token_id


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(ModelError, match=r"bert: no architecture that can be made from scratch; choose one of bart, "):
        kind_of("bert")
    with pytest.raises(ModelError, match="a tokenizer of 100 tokens has no room beside 259 special ones and bytes"):
        make_tokenizer(TEXTS, 100, "decoder-only")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("teacher.teach=null", "a teacher from scratch knows nothing yet; add teach"),
        ("teacher.teach.adapt.kind=lora", "add teach, with adapt: {kind: full}"),
        ("teacher.adapter=somewhere", "has no adapter, server or revision; leave them out"),
        ("teacher.scratch.tokenizer=null", "teacher.scratch.tokenizer"),
        ("student={model: t5-small}", "tokens of its own, which student.model does not read in"),
    ],
)
def test_recipes_that_contradict_themselves(change: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe(RECIPE, (change,))
    assert says in str(caught.value)


def _acts(path: Path, count: int, seed: int) -> None:
    """Acts and sentences in the form of RNNLG: some with one target, some with several."""
    dice = random.Random(seed)
    with path.open("w", encoding="utf8") as file:
        for number in range(count):
            name = " ".join(dice.sample("alamo bistro contadina piperade grill".split(), 2))
            food = dice.choice(["basque", "thai", "french"])
            texts = [f"{name} serves {food} food", f"there is {food} food at {name} {number}"]
            targets = {"target": texts[0]} if number % 3 < 2 else {"targets": texts}
            act = f"restaurant: inform(name='{name}';food={food};count={number})"
            file.write(json.dumps({"source": act, **targets}) + "\n")


@pytest.mark.timeout(300)
def test_the_recipe_runs_from_end_to_end_in_small(tmp_path: Path) -> None:
    (tmp_path / "acts").mkdir()
    for seed, (split, count) in enumerate((("train", 60), ("validation", 8), ("test", 8))):
        _acts(tmp_path / "acts" / f"{split}.jsonl", count, seed)
    changes = {
        "data.source": "acts", "teacher.scratch.hidden": 16, "teacher.scratch.feed_forward": 24,
        "teacher.scratch.heads": 2, "teacher.scratch.tokenizer.train": 300,
        "teacher.teach.loop.budget": "{steps: 6}", "teacher.teach.loop.validate_steps": 3,
        "distil.loop.budget": "{steps: 4}", "evaluate.items": 4, "evaluate.latency_items": 1,
        "evaluate.max_new_tokens": 4, "student.calibration": 4, "distil.loop.trackers": "[]",
        "student.vocabulary": "{tokens: used}",
    }  # fmt: skip
    options = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    ended = instil("run", str(RECIPE), "--json", *options, cwd=tmp_path)
    assert ended.code == 0 and "checked: 0 fail" in ended.err, ended.err
    assert {"teacher", "student", "student_without_teacher", "nearest_neighbour"} <= set(json.loads(ended.out))
    (student,) = (tmp_path / "runs" / "rnnlg-t5").glob("distil-[0-9a-f]*/model")
    model = hf.AutoModelForSeq2SeqLM.from_pretrained(student)
    assert (model.config.num_layers, model.config.num_decoder_layers) == (4, 1)
    assert "t5, from scratch, taught for 6 steps on the data" in (student / "README.md").read_text()
    again = instil("run", str(RECIPE), "--no-check", "--json", *options, cwd=tmp_path)
    assert "teach: reused" in again.err and "teach: making" not in again.err


@pytest.mark.parametrize(("optimizer", "warned"), [("adamw", True), ("adafactor", False)])
def test_a_t5_from_nothing_that_adamw_would_teach_is_found_by_the_check(
    optimizer: str, warned: bool, tmp_path: Path
) -> None:
    (tmp_path / "acts").mkdir()
    _acts(tmp_path / "acts" / "train.jsonl", 60, 0)
    changes = ("data.source=acts", f"teacher.teach.loop.optimizer={optimizer}")
    options = [word for change in changes for word in ("--set", change)]
    ended = instil("check", str(RECIPE), "--only", "environment", "--json", *options, cwd=tmp_path)
    found = {problem["code"]: problem["remedy"] for problem in json.loads(ended.out)["problems"]}
    assert ("optimizer-slow" in found) == warned, ended.err
    assert not warned or found["optimizer-slow"].startswith("set teacher.teach.loop.optimizer: adafactor")


def test_an_architecture_that_cannot_be_made_is_found_by_the_check(tmp_path: Path) -> None:
    folder = project(tmp_path, pairs=60)
    changes = ("teacher.model=bert", "teacher.scratch={layers: 1, tokenizer: {train: 280}}")
    ended = instil("check", "recipe.yaml", "--json", *(w for c in changes for w in ("--set", c)), cwd=folder)
    (found,) = (each for each in json.loads(ended.out)["problems"] if each["grade"] == "fail")
    assert ended.code == 1 and "bert: no architecture that can be made from scratch" in found["what"]


def test_a_decoder_from_scratch_teaches_as_well(tmp_path: Path) -> None:
    folder = project(tmp_path, pairs=60)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    sizes = {"layers": 2, "hidden": 16, "feed_forward": 24, "heads": 2, "tokenizer": {"train": 280}}
    recipe["teacher"] |= {"model": "llama", "scratch": sizes}
    recipe["teacher"]["teach"]["loop"]["budget"] = {"steps": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    ended = instil("teach", "recipe.yaml", cwd=folder)
    assert ended.code == 0, ended.err
    (made,) = (folder / "runs").glob("*/teach-*/model")
    assert hf.AutoModelForCausalLM.from_pretrained(made).config.num_hidden_layers == 2
