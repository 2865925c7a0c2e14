"""Stage `teach`: the teacher that the recipe names, fine-tuned on gold targets first where it says so."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import instil
from instil.core import console
from instil.core.errors import ConfigError
from instil.core.fingerprint import FINGERPRINT_LENGTH, fingerprint
from instil.data.prompts import Prompt
from instil.data.records import Record
from instil.data.tokens import Encoded, Limits, Truncation, encode_records
from instil.models.adapters import hash_adapter, load_adapter
from instil.models.config import ServedConfig
from instil.models.family import family_of
from instil.models.folders import UNKNOWN_LICENCE, fingerprint_parts
from instil.models.generation import TransformersGenerator
from instil.models.layers import stack_of
from instil.models.loading import LoadedModel, Reader, load_model, load_reader, locate, to_accelerator
from instil.models.served import Endpoint, ServedGenerator
from instil.models.students.influence import block_influence, most_influential
from instil.objectives.fused import Mix
from instil.run.recipe import Recipe
from instil.run.sections.teacher import LayerDropConfig, TeachConfig
from instil.run.stage import Artifact, Workshop
from instil.run.stages.data import Data
from instil.run.stages.made_models import MODEL_NAME, keep_adapter, keep_model, load_made
from instil.run.stages.scratch import scratch_teacher
from instil.run.stages.tasks import decisive_turns, turns_of
from instil.train.checkpoint import discard
from instil.train.config import LoopConfig
from instil.train.session import run_training
from instil.train.task import LayerDrop, RowLoss, TextTask
from instil.train.teach import adapt

BUILTIN = "builtin:"


@dataclass
class Teacher:
    """Who teaches. Its weights are loaded on first use and then stay. With an `endpoint` it teaches from there, and
    its texts are read by `reader` without weights. `licence` is that of the model it comes from; `ref` names a model
    with its tokenizer. `details` tells what `fingerprint` is of, one by one, as far as it is known."""

    fingerprint: str
    load: Callable[[], LoadedModel]
    licence: str
    ref: str
    artifact: Artifact | None = None
    endpoint: Endpoint | None = None
    reader: Reader | None = None
    details: Callable[[], dict[str, str]] = dict

    @property
    def reads(self) -> Reader | LoadedModel:
        """Who turns its texts into tokens."""
        return self.reader or self.loaded

    @cached_property
    def loaded(self) -> LoadedModel:
        """The model with its tokenizer."""
        return self.load()

    def rest(self) -> None:
        """Lets the weights go until they are asked for again."""
        vars(self).pop("loaded", None)
        gc.collect()  # A model's parts know each other in circles.


def shipped(ref: str, room: str) -> Path:
    """The folder of `ref`: "builtin:NAME" is looked for among what `room` ships; anything else is a path."""
    if not ref.startswith(BUILTIN):
        return Path(ref).expanduser()
    root = Path(instil.__file__).parent / room / "shipped"
    folder = root / ref.removeprefix(BUILTIN)
    if not folder.is_dir():
        known = ", ".join(f"{BUILTIN}{path.name}" for path in sorted(root.glob("*")) if path.is_dir()) or "none"
        raise ConfigError(f"{ref}: instil ships no such thing; known: {known}")
    return folder


def encode(
    recipe: Recipe, loaded: LoadedModel | Reader, records: Sequence[Record], label: str
) -> tuple[list[Encoded], Truncation]:
    """Training examples of `records` for `loaded`, and what was cut, which is also said."""
    limits = Limits(source=recipe.limits.source, target=recipe.limits.target)
    examples, cut = encode_records(loaded.tokenizer, recipe.prompt, records, limits, loaded.kind)
    if cut.sources or cut.targets:
        console.say(f"  {label}: {cut}")
    return examples, cut


def held_out_examples(recipe: Recipe, loaded: LoadedModel, data: Data, loop: LoopConfig) -> list[Encoded]:
    """The validation split, where the loop looks at it at all."""
    return encode(recipe, loaded, data.splits["validation"], "validation")[0] if loop.validate_steps else []


def base_teacher(recipe: Recipe, data: Data | None = None) -> Teacher:
    """The teacher before any teaching: its model with the adapter that the recipe names, or random weights, which need
    the `data` for their tokenizer."""
    teacher = recipe.teacher
    if scratch := teacher.scratch:
        if data is None:
            raise ConfigError(f"teacher.scratch: a {teacher.model} of random weights knows nothing before it is taught")
        made_from = fingerprint(teacher.model, scratch.model_dump(mode="json"), data.fingerprint, recipe.seed)
        build = partial(scratch_teacher, scratch, teacher.model, data, recipe.seed)
        return Teacher(made_from, build, UNKNOWN_LICENCE, teacher.model)
    adapter = shipped(teacher.adapter, "models") if teacher.adapter else None

    def load() -> LoadedModel:
        loaded = load_model(teacher.model, revision=teacher.revision, accept_licences=recipe.accept_licences)
        return load_adapter(loaded, adapter) if adapter else loaded

    if teacher.served:
        return _served(recipe, teacher.served, load)
    place = locate(teacher.model, revision=teacher.revision, accept_licences=recipe.accept_licences)
    mark = fingerprint(place.fingerprint, hash_adapter(adapter)) if adapter else place.fingerprint

    def details() -> dict[str, str]:
        own = hash_adapter(adapter)[:FINGERPRINT_LENGTH] if adapter else "none"
        return fingerprint_parts(place.folder) | {"adapter": own, "teaching": "none"}

    return Teacher(mark, load, place.licence, teacher.model, details=details)


def _served(recipe: Recipe, served: ServedConfig, load: Callable[[], LoadedModel]) -> Teacher:
    model = recipe.teacher.model
    reader = load_reader(model, revision=recipe.teacher.revision, accept_licences=recipe.accept_licences)
    if reader.kind != "decoder-only":
        raise ConfigError(f"teacher.served: {model} has an encoder, whose rows no server tells; load it in memory")
    endpoint = Endpoint(served)
    # Not where it is served: the same model at another address has the same labels.
    tokens = sorted(reader.tokenizer.get_vocab().items())
    mark = fingerprint(endpoint.model, served.revision, tokens)
    told = {"model": endpoint.model, "revision": served.revision or "none", "tokenizer": fingerprint(tokens)}
    return Teacher(mark, load, reader.licence, model, endpoint=endpoint, reader=reader, details=lambda: told)


def generator_of(
    recipe: Recipe, teacher: Teacher, *, beams: int, prompt: Prompt | None = None, max_source_tokens: int | None = None
) -> TransformersGenerator | ServedGenerator:
    """What writes the teacher's texts, behind another `prompt` or from longer sources than the recipe's if given."""
    prompt, most = prompt or recipe.prompt, max_source_tokens or recipe.limits.source
    if teacher.endpoint and teacher.reader:
        return ServedGenerator(
            teacher.endpoint, teacher.reader.tokenizer, prompt, name="teacher", max_source_tokens=most,
        )  # fmt: skip
    return TransformersGenerator(
        to_accelerator(teacher.loaded.model), teacher.loaded.tokenizer, prompt, name="teacher", max_source_tokens=most,
        num_beams=beams,
    )  # fmt: skip


def run_teach(shop: Workshop, recipe: Recipe, data: Data) -> Teacher:
    """The teacher of the later stages. Without a `teach` section, the base as it is."""
    base, teach = base_teacher(recipe, data), recipe.teacher.teach
    if teach is None:
        return base
    config = {
        "teach": teach.model_dump(mode="json", exclude={"loop"}) | {"loop": teach.loop.decisive()},
        "prompt": recipe.prompt.model_dump(mode="json"),
        "limits": recipe.limits.model_dump(mode="json"),
        **decisive_turns(recipe),
    }
    artifact = shop.stage(
        "teach",
        lambda folder: _teach(recipe, teach, base, data, folder),
        inputs={"teacher": base.fingerprint, "data": data.fingerprint},
        config=config,
    )
    discard(artifact.folder)
    base_too = teach.adapt.by_adapter
    return Teacher(
        artifact.fingerprint, lambda: load_made(artifact, base.load() if base_too else None), base.licence,
        base.ref if base_too else str(artifact.folder / MODEL_NAME), artifact,
        details=lambda: base.details() | {"teaching": artifact.fingerprint},
    )  # fmt: skip


def _teach(recipe: Recipe, teach: TeachConfig, base: Teacher, data: Data, folder: Path) -> Mapping[str, Any]:
    loaded = base.load()
    examples, cut = encode(recipe, loaded, data.splits["train"], "train")
    held_out = held_out_examples(recipe, loaded, data, teach.loop)
    drop = _layer_drop(recipe, teach.layer_drop, loaded, examples) if teach.layer_drop else None
    model = adapt(loaded.model, teach.adapt, seed=recipe.seed)
    layers = stack_of(model).layers
    if drop and not any(parameter.requires_grad for number in drop.kept for parameter in layers[number].parameters()):
        raise ConfigError(
            "layer_drop keeps none of the layers that teach.adapt trains; raise adapt.layers or layer_drop.keep"
        )
    task = TextTask(
        RowLoss(model, family_of(model), Mix(hard=1.0)), examples, held_out, batch_tokens=teach.loop.batch_tokens,
        drop=drop, **turns_of(recipe, examples),
    )  # fmt: skip
    with console.progress("teach", 100, "%") as advance:
        result = run_training(task, teach.loop, folder=folder, seed=recipe.seed, advance=advance)
    result["cut"] = str(cut)
    if drop:
        result["layer_drop"] = list(drop.kept)
    if teach.adapt.by_adapter:
        return result | keep_adapter(model.half(), recipe.teacher.model, folder)
    return result | keep_model(model, loaded.tokenizer, folder)


def _layer_drop(
    recipe: Recipe, section: LayerDropConfig, loaded: LoadedModel, examples: Sequence[Encoded]
) -> LayerDrop:
    count = len(stack_of(loaded.model).layers)
    if section.keep >= count:
        raise ConfigError(f"layer_drop.keep is {section.keep} but the teacher has {count} layers; keep fewer")
    influence = block_influence(loaded.model, family_of(loaded.model), examples[: section.calibration])
    # Some architectures keep in the first layer what the others use too (T5's position bias).
    kept = most_influential((math.inf, *influence[1:]), section.keep)
    console.say(f"  teaches layers {', '.join(map(str, kept))} of {count} to do without the others")
    return LayerDrop(kept, section.share, recipe.seed)
