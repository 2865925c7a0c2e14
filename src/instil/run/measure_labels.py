"""`instil label --measure`: what finer labels would cost and bring, for this recipe's teacher, student and data."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instil.core.errors import ConfigError
from instil.data.tokens import Encoded
from instil.labels.codec import THRESHOLDS, Codec
from instil.models.family import family_of
from instil.run.pipeline import Pipeline
from instil.run.stages.made_models import load_made
from instil.run.stages.teach import encode
from instil.train.nearness import Remembering, nearness, stored_batches, through, write_stores

_BATCH_ROWS = 512
_TOP = 12


def measure_labels(pipeline: Pipeline, rows: int) -> list[dict[str, Any]]:
    """A line for each setting: bytes a row, and its angle to the dense gradient in degrees, of batches of 512 rows and
    of all `rows` together. Raises `ConfigError` where there is no student, or no distribution to compare with."""
    recipe = pipeline.recipe
    if recipe.student is None:
        raise ConfigError("how near labels come depends on who learns; add a student section to the recipe")
    if recipe.teacher.served:
        raise ConfigError("a served teacher does not tell its whole distribution, so there is nothing to compare with")
    loaded, student = pipeline.instructor.loaded, load_made(pipeline.untrained).model
    teacher = Remembering(model=loaded.model, family=family_of(loaded.model))
    examples = _enough(encode(recipe, loaded, pipeline.data.splits["train"], "labels")[0], rows)
    codecs: dict[str, Codec] = {name: Codec.of(name, teacher.vocabulary) for name in THRESHOLDS}
    codecs |= {f"head: {_TOP}": Codec.top(_TOP, teacher.vocabulary)}
    with tempfile.TemporaryDirectory() as folder:
        stores = write_stores(teacher, examples, codecs, Path(folder))
        batches = stored_batches(student, family_of(student), teacher, examples, stores, rows=_BATCH_ROWS)
        found = nearness(batches, through(student))
    return [
        {
            "setting": name,
            "bytes_per_token": round(stores[name].manifest.measured["bytes_per_row"], 2) if name in stores else None,
            f"angle_{_BATCH_ROWS}": round(statistics.fmean(each.batches), 3),
            "angle_all": round(each.whole, 3) if name in stores else None,
            "rows": len(each.batches) * _BATCH_ROWS,
        }
        for name, each in found.items()
    ]


def _enough(examples: Sequence[Encoded], rows: int) -> list[Encoded]:
    """The first examples that fill whole batches up to `rows`."""
    chosen: list[Encoded] = []
    longest = max((len(example.target_ids) for example in examples), default=0)
    left = -(-rows // _BATCH_ROWS) * (_BATCH_ROWS + longest)  # What a batch has above its rows is not used.
    for example in examples:
        if left <= 0:
            break
        chosen.append(example)
        left -= len(example.target_ids)
    if sum(len(example.target_ids) for example in chosen) < _BATCH_ROWS:
        raise ConfigError(f"the train split has fewer than {_BATCH_ROWS} target tokens; give more records")
    return chosen
