"""The `data` section of a recipe: where records come from, which columns, how they are split and cleaned."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, StringConstraints, model_validator

from instil.core.config import Config
from instil.data.records import MAIN_TASK, SPLIT_NAMES, SplitName

Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""One column name or a list of them."""


class Columns(Config):
    """Which columns hold what. `id: null` makes ids from the content.

    `target` holds one text (or a list of them, where the format has lists); `targets` holds lists, in a CSV cell as
    a JSON list. Each may name several columns. With neither set, a column `target` or else `targets` is looked for.
    """

    id: str | None = "id"
    source: str = "source"
    target: Names | None = None
    targets: Names | None = None

    @model_validator(mode="after")
    def _one_of_target_and_targets(self) -> Columns:
        if self.target is not None and self.targets is not None:
            raise ValueError("target and targets are both set; keep one")
        if self.target == () or self.targets == ():
            raise ValueError("the list of target columns is empty; name at least one")
        return self


class CleanConfig(Config):
    """What makes a record unfit. Words are separated by white space; null switches a check off.

    `near_duplicates` is the Jaccard similarity of two sources' word 5-grams from which the later one is dropped.
    A training record is leaked when more than `leakage_share` of its `leakage_ngram`-word sequences stand in the
    held-out sources, or when its source stands there as a whole.
    """

    min_source_words: int = Field(default=1, ge=0)
    max_source_words: PositiveInt | None = None
    min_target_words: int = Field(default=1, ge=0)
    max_target_words: PositiveInt | None = None
    exact_duplicates: bool = True
    near_duplicates: float | None = Field(default=0.9, gt=0, le=1)
    leakage: Literal["remove", "warn", "off"] = "remove"
    leakage_ngram: int = Field(default=8, ge=2)
    leakage_share: float = Field(default=0.5, ge=0, lt=1)

    @model_validator(mode="after")
    def _bounds_in_order(self) -> CleanConfig:
        for kind, low, high in (
            ("source", self.min_source_words, self.max_source_words),
            ("target", self.min_target_words, self.max_target_words),
        ):
            if high is not None and low > high:
                raise ValueError(f"min_{kind}_words is {low}, above max_{kind}_words, {high}; no record could pass")
        return self


class SplitLimits(Config):
    """The most records to keep of each split, counted after cleaning; the first ones stay, in the order of `order`."""

    train: PositiveInt | None = None
    validation: PositiveInt | None = None
    test: PositiveInt | None = None

    def of(self, split: str) -> int | None:
        """The limit of `split`, None for no limit."""
        value: int | None = getattr(self, split)
        return value


class Places(Config):
    """Where the records of one task come from.

    A place is `synopsis` (built in), a file or folder of .jsonl, .json, .csv, .tsv (these also .gz) or .parquet files,
    or `hub:owner/name`. `source` may bring its own splits (files or hub splits named train, validation, test);
    `train`, `validation` and `test` each name the place of one split. A held-out split that nobody brings is cut from
    the training records by a hash of the source text, so records that are added later never move the others.
    `config`, `split` and `revision` are for hub data sets. `order`: records are taken as they are given, or mixed by a
    hash of their source texts. Where a file is sorted, by subject or by date, a limit or `evaluate.items` would
    otherwise take records of one kind.
    """

    source: str | None = None
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: Columns = Columns()
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    test_share: float = Field(default=0.1, ge=0, lt=1)
    order: Literal["given", "mixed"] = "given"
    limit: SplitLimits = SplitLimits()
    clean: CleanConfig = CleanConfig()

    @property
    def _places_needed(self) -> bool:
        return True

    @model_validator(mode="after")
    def _one_training_place(self) -> Self:
        if self._places_needed and (self.source is None) == (self.train is None):
            found = "neither is set" if self.source is None else "both are set"
            raise ValueError(f"training records come from 'source' or from 'train', and {found}; set one of them")
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave nothing to train on; their sum must stay below 1")
        return self

    def share_of(self, split: SplitName) -> float:
        """The share of the training records that a missing held-out `split` is cut from them with."""
        return {"train": 1.0, "validation": self.validation_share, "test": self.test_share}[split]


_PLACES = ("source", *SPLIT_NAMES, "config", "split", "revision")


class FurtherTask(Places):
    """A further data set, learned beside the main one; without a place, other columns of the main one's records.
    `prefix` stands before each of its sources, as in T5, so that the model knows what is asked of it; its rows count
    `weight` times. `from_teacher`: a teacher wrote it, such as rationales, so the student without a teacher goes
    without it. A held-out split that nobody brings is not cut."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=40)]
    prefix: str = ""
    weight: PositiveFloat = 1.0
    from_teacher: bool = False
    validation_share: float = Field(default=0.0, ge=0, lt=1)
    test_share: float = Field(default=0.0, ge=0, lt=1)

    @property
    def _places_needed(self) -> bool:
        return any(getattr(self, name) is not None for name in _PLACES)


class Sampling(Config):
    """How often each task has its turn: in proportion to min(its records, `most`)^(1 / `temperature`) (Raffel et al.
    2019, arXiv 1910.10683, section 3.5.2). At 1 each record comes once an epoch; a higher one evens the tasks out."""

    temperature: float = Field(default=1.0, ge=1)
    most: PositiveInt | None = None


class DataConfig(Places):
    """The main task, called `main`, and any further tasks beside it in `also`, each with a `prefix` and a `weight`;
    `sampling` says how often each has its turn."""

    prefix: str = ""
    weight: PositiveFloat = 1.0
    also: tuple[FurtherTask, ...] = ()
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [MAIN_TASK, *(task.name for task in self.also)]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two tasks are called {twice!r}; give each in also a name of its own")
        return self

    @property
    def tasks(self) -> dict[str, DataConfig | FurtherTask]:
        """The tasks by name, the main one first, each with its places."""
        return {MAIN_TASK: self, **{task.name: self._placed(task) for task in self.also}}

    def _placed(self, task: FurtherTask) -> FurtherTask:
        if task._places_needed:
            return task
        shared = {*_PLACES, "order", "limit", "clean"} - task.model_fields_set
        return task.model_copy(update={name: getattr(self, name) for name in shared})
