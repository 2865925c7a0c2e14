"""Prometheus metrics of one server, in a registry of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from instil.serve.jobs import Answer

if TYPE_CHECKING:
    from instil.serve.models import ServedModel

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters and histograms by model; `text()` is what a scraper reads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"instil_{name}", what, labels, registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"instil_{name}", what, labels, buckets=buckets, registry=self.registry)

        self.requests = counter("requests", "HTTP requests", "path", "status")
        self.seconds = histogram("request_seconds", "From request to answer", _SECONDS, "path")
        self.prompt_tokens = counter("prompt_tokens", "Tokens read", "model")
        self.new_tokens = counter("new_tokens", "Tokens written", "model")
        self.waited = histogram("queue_seconds", "From request to engine", _SECONDS, "model")
        self.first = histogram("first_token_seconds", "From request to first token", _SECONDS, "model")
        self.batch_size = histogram("batch_size", "Prompts that an engine took at once", _SIZES, "model")
        self.cache_hits = counter("cache_hits", "Answers that were kept from before", "model")
        self.engine_failures = counter("engine_failures", "Batches that an engine failed on", "model")
        self.refused = counter("refused", "Prompts answered 429", "model")
        self._queue = Gauge("instil_queue", "Prompts that wait", ("model",), registry=self.registry)
        self._expired = Gauge("instil_expired", "Prompts whose deadline passed", ("model",), registry=self.registry)
        self._cache = Gauge("instil_cache_bytes", "Size of the cache", ("model",), registry=self.registry)

    def watch(self, model: ServedModel) -> None:
        """From now on tell of its queue and cache."""
        self._queue.labels(model.name).set_function(lambda: len(model.room))
        self._expired.labels(model.name).set_function(lambda: model.room.expired)
        self._cache.labels(model.name).set_function(lambda: model.cache.bytes)

    def answered(self, model: str, answer: Answer) -> None:
        """One job is done."""
        self.prompt_tokens.labels(model).inc(answer.prompt_tokens)
        self.new_tokens.labels(model).inc(answer.new_tokens)
        self.waited.labels(model).observe(answer.waited_s)
        self.first.labels(model).observe(answer.first_s)

    def text(self) -> bytes:
        """All of them, in Prometheus' own format."""
        return generate_latest(self.registry)
