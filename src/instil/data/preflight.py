"""Cheap checks of the `data` section: what it names is there, and the first records have their columns."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from instil.core.errors import Problem
from instil.data import hub
from instil.data.columns import layout, record_of
from instil.data.config import DataConfig, Places
from instil.data.problems import BadData
from instil.data.records import SPLIT_NAMES
from instil.data.sources import Origin, open_origin, plan


def preflight(config: DataConfig, base: Path) -> list[Problem]:
    """Everything wrong that the first record of each file shows. Changes nothing and asks no hub."""
    return [problem for task in config.tasks.values() for problem in _problems(task, base)]


def _problems(config: Places, base: Path) -> list[Problem]:
    problems: list[Problem] = []
    roles = ("source", *SPLIT_NAMES)
    for role in roles:
        place = getattr(config, role)
        if place is None:
            continue
        if hub.is_hub(place):
            problems += _hub_problems(place)
            continue
        alone = config.model_copy(update={other: None for other in roles if other != role})
        try:
            origins = plan(alone, base).origins
        except BadData as error:
            problems.append(error.problem)
        else:
            problems += [problem for origin in origins if (problem := _first_problem(origin, config)) is not None]
    return problems


def _hub_problems(place: str) -> list[Problem]:
    if importlib.util.find_spec("datasets") is None:
        remedy = "install it with: pip install datasets"
        return [Problem(grade="fail", what="needs the library datasets", remedy=remedy, where=place)]
    remedy = "the first run downloads and checks it"
    return [Problem(grade="info", what="a hub data set is not checked beforehand", remedy=remedy, where=place)]


def _first_problem(origin: Origin, config: Places) -> Problem | None:
    try:
        table = open_origin(origin, config)
        columns = layout(config.columns, table)
        number, row = next(table.rows)
        record_of(row, table.place(number), columns)
    except BadData as error:
        return error.problem
    return None
