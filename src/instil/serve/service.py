"""All models of a server, with what they share; it begins, it takes jobs, it drains."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal

from instil.evaluate.memory import added_memory
from instil.serve.config import ModelSpec, ServeConfig
from instil.serve.engines.base import Engine
from instil.serve.engines.choose import choose, require_use_of_draft, start
from instil.serve.jobs import Job, ServeError
from instil.serve.metrics import Metrics
from instil.serve.models import ServedModel

Say = Callable[[str], None]


class Service:
    """Models by name. `draining`: what is accepted is still answered, nothing more is accepted."""

    def __init__(self, config: ServeConfig, *, say: Say) -> None:
        """Loads all models; where one fails, those before it end. `say` hears which engine runs each, and why."""
        _require_use_of_draft(config)
        self.config = config
        self.metrics = Metrics()
        self.draining = False
        self.under_way = 0
        self.models: dict[str, ServedModel] = {}
        try:
            for spec in config.models:
                self.models[spec.name] = self._begin(spec, say)
        except BaseException:
            self.close()
            raise

    def _begin(self, spec: ModelSpec, say: Say) -> ServedModel:
        found: list[tuple[Engine, str]] = []

        def load() -> None:
            found.append(open_engine(spec, self.config))
            found[0][0].run([_first_job(found[0][0])])  # Weights come into memory when they are first used.

        try:
            memory = added_memory(load)
        except BaseException:
            for opened, _ in found:
                opened.close()
            raise
        engine, why = found[0]
        say(f"{spec.name}: {engine.facts.name}, {why}")
        return ServedModel(spec, engine, self.config.limits, self.metrics, why=why, memory=memory)

    @property
    def state(self) -> Literal["ready", "draining", "an engine ended"]:
        """Whether requests are accepted and every engine can answer them."""
        if self.draining:
            return "draining"
        return "an engine ended" if any(model.engine.lost for model in self.models.values()) else "ready"

    def model(self, name: str | None) -> ServedModel:
        """The model that a request names; the first one where it names none."""
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise ServeError(f"model: {name!r} is not served; choose one of {', '.join(self.models)}", 404)
        return self.models[name]

    def submit(self, model: ServedModel, jobs: Sequence[Job]) -> None:
        """`jobs` are answered or wait from now on. Raises `ServeError` 503 while draining, 429 when full."""
        if self.draining:
            raise ServeError("the server is about to end; send it to another one", 503, retry_after=5)
        try:
            model.submit(jobs)
        except ServeError as error:
            if error.status == 429:
                self.metrics.refused.labels(model.name).inc(len(jobs))
            raise

    def deadline(self, wanted: float | None) -> float:
        """The moment, of the monotonic clock, at which a request that comes now is given up."""
        return time.monotonic() + min(wanted or self.config.limits.deadline_s, 3600.0)

    def new_tokens(self, model: ServedModel, wanted: int | None) -> int:
        """How many tokens a request gets at most. Raises `ServeError` for more than anybody gets."""
        most = self.config.limits.new_tokens
        if wanted is not None and wanted > most:
            raise ServeError(f"max_tokens: {wanted} is more than {most}; ask for fewer")
        return min(model.spec.max_new_tokens, most) if wanted is None else wanted

    def close(self) -> None:
        """End all models, after what waits."""
        for model in self.models.values():
            model.close()


def _first_job(engine: Engine) -> Job:
    """The shortest work that touches every weight."""
    return Job(list(engine.tokenizer("a b c")["input_ids"]) or [0], 2)


def _require_use_of_draft(config: ServeConfig) -> None:
    from instil.serve.engines.transformers_engine import device_of

    require_use_of_draft(config.models, config.options, device_of(config.options.device))


def open_engine(spec: ModelSpec, config: ServeConfig) -> tuple[Engine, str]:
    """The engine of one model, running, and why it is this one."""
    from instil.serve.engines.transformers_engine import device_of

    device = device_of(config.options.device)
    choice = choose(spec.ref, config.options, device, adapter=spec.adapter)
    engine = start(spec, choice, config.options, config.limits, device, models=len(config.models))
    return engine, choice.why
