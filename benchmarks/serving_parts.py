"""What the serving benchmarks share: a run's models exported, each behind a real server, and asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import uvicorn
from transformers import AutoTokenizer

from benchmarks.clients import Answered, Clients, answer, clients
from instil.core.errors import ModelError
from instil.data.records import Record
from instil.evaluate.rouge import Rouge, tokenizer_for
from instil.export.parity import Probe
from instil.export.publish import export_student
from instil.export.student import Student, open_student
from instil.models.loading import save_model
from instil.run.servable import asked_records, specs_of
from instil.serve.app import make_app
from instil.serve.config import EngineOptions, Limits, ModelSpec, ServeConfig
from instil.serve.jobs import Job
from instil.serve.models import ServedModel
from instil.serve.server import listen
from instil.serve.service import Service

MOST = 32
TEACHER, STUDENT = "teacher, transformers fp32", "student, transformers fp32"
Places = Mapping[str, ModelSpec]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Served:
    """A model behind a server of its own."""

    url: str
    model: ServedModel
    client: httpx.Client
    clients: Clients

    @property
    def engine(self) -> str:
        """What runs it."""
        return self.model.engine.facts.name

    @property
    def bytes(self) -> int:
        """Of its weights."""
        return self.model.engine.facts.bytes

    @property
    def memory(self) -> int | None:
        """Bytes that it took at its peak while it was loaded and wrote its first text."""
        return self.model.memory

    def answer(self, source: str) -> tuple[str, int]:
        """The text for one source, over HTTP, and its tokens."""
        return answer(self.client, self.url, source, MOST)

    def asked(self, sources: Sequence[str], clients: int) -> Answered:
        """All of `sources` over HTTP, by so many clients at a time."""
        return self.clients.ask(self.url, sources, clients=clients, most=MOST)

    def bare(self, sources: Sequence[str], batch: int) -> float:
        """Texts a second of the engine alone, in batches as the server makes them."""
        jobs = [Job(self.model.source_ids(source), MOST) for source in sources]
        facts = self.model.engine.facts
        begun = time.perf_counter()
        if facts.workers > 1:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(batch) as pool:
                list(pool.map(lambda job: self.model.engine.run([job]), jobs))
        else:
            for start in range(0, len(jobs), batch):
                self.model.engine.run(jobs[start : start + batch])
        return len(jobs) / (time.perf_counter() - begun)


@contextmanager
def served(name: str, spec: ModelSpec, threads: int | None, *, queue: int = 64, **options: Any) -> Iterator[Served]:
    """A server over one model, without a cache, until the block ends."""
    config = ServeConfig(
        models=(spec,), limits=Limits(cache_mb=0, queue=queue, deadline_s=600), port=0,
        options=EngineOptions(threads=threads, context=512, **options),
    )  # fmt: skip
    service = Service(config, say=lambda _: None)
    app = make_app(service, log=lambda _: None)
    # A client's open connection must outlive the bare engine's turns, which ask nothing.
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=600))
    door = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]}, name=name)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        with httpx.Client(timeout=600, limits=httpx.Limits(max_connections=64)) as client, clients() as others:
            yield Served(f"http://127.0.0.1:{door.getsockname()[1]}", service.model(None), client, others)
    finally:
        server.should_exit = True
        thread.join()
        door.close()
        service.close()


def in_turns(names: Sequence[str], ask: Callable[[str, T], object], asked: Sequence[T]) -> dict[str, list[float]]:
    """Seconds that each name takes for each of `asked` but the first, which warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for each in asked:
        for name in names:
            begun = time.perf_counter()
            ask(name, each)
            seconds[name].append(time.perf_counter() - begun)
    return {name: times[1:] for name, times in seconds.items()}


def stage_of(run: Path, name: str) -> Path:
    """The folder of a stage of a finished run."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf8"))
    return run / summary["stages"][name]


def records_of(run: Path, count: int) -> list[Record]:
    """The first test records of a run."""
    return asked_records(stage_of(run, "data"))[:count]


def sources_of(run: Path, count: int) -> list[str]:
    """The first sources of a run's test set."""
    return [record.source for record in records_of(run, count)]


def merged_teacher(run: Path, scratch: Path) -> Student:
    """The teacher of a run as a model of its own, with the student's prompt and limits."""
    from instil.models.adapters import load_adapter
    from instil.models.loading import load_model

    spec = specs_of([str(run)])[-1]
    found = load_model(spec.ref)
    if spec.adapter:
        found = load_adapter(found, spec.adapter)
    folder = scratch / "teacher"
    if not folder.exists():
        save_model(found.model, found.tokenizer, folder)
    student = open_student(stage_of(run, "student"))
    return open_student(folder, prompt=student.prompt, source_limit=student.source_limit)


def export_of(student: Student, scratch: Path, target: Any, precision: str, run: Path, probes: int) -> str:
    """The folder of an export, made on first use, proved on so many of the run's test records."""
    found = [Probe(record.source, record.targets) for record in records_of(run, probes)]
    out = scratch / f"{student.name}-{target}-{precision}"
    if not out.exists():
        export_student(student, target, out, precision=precision, probes=found)
    return str(out)


def exports_of(run: Path, scratch: Path, probes: int) -> tuple[dict[str, ModelSpec], dict[str, str]]:
    """Teacher and student, each on transformers in fp32 and exported, by the names that the table shows; and why those
    were refused that the format or the comparison, on so many `probes`, did not take."""
    student, teacher = open_student(stage_of(run, "student")), merged_teacher(run, scratch)
    plain = specs_of([str(run)])
    found = {TEACHER: plain[-1], STUDENT: plain[0]}
    refused = {}
    for role, model in (("teacher", teacher), ("student", student)):
        for target, precision in (("ctranslate2", "int8"), ("gguf", "q8_0"), ("gguf", "q4_k_m")):
            name = f"{role}, {target} {precision}"
            try:
                found[name] = specs_of([export_of(model, scratch, target, precision, run, probes)])[0]
            except ModelError as error:
                refused[name] = str(error).splitlines()[0]
    return found, refused


def quality(run: Path, places: Places, count: int) -> dict[str, float]:
    """Mean ROUGE-L of the student's texts, on each engine, in percent."""
    records = records_of(run, count)
    rouge = Rouge(tokenizer=tokenizer_for(text for record in records for text in record.targets))
    found = {}
    for name, spec in places.items():
        if name.startswith("student"):
            with served(name, spec, None) as system:
                texts = [system.answer(record.source)[0] for record in records]
            scores = [rouge.score(text, record.targets).rougeL for text, record in zip(texts, records, strict=True)]
            found[name] = sum(scores) / len(scores)
    return found


def one_vocabulary(run: Path, scratch: Path) -> bool:
    """Whether the student has its teacher's tokens, as a draft must."""
    teacher, student = (
        AutoTokenizer.from_pretrained(folder) for folder in (scratch / "teacher", stage_of(run, "student") / "model")
    )
    return bool(teacher.get_vocab() == student.get_vocab())


def speculation(run: Path, scratch: Path, sources: Sequence[str], threads: int | None) -> dict[str, Any]:
    """The teacher in llama.cpp alone, and with two drafts of one size: the distilled student, and the same student
    before it learned. Its texts must be the same each time."""
    drafts = {"distilled": stage_of(run, "student"), "undistilled": stage_of(run, "untrained student")}
    exported = {
        name: export_of(open_student(folder), scratch, "gguf", "q8_0", run, 6) for name, folder in drafts.items()
    }
    teacher = specs_of([str(scratch / "teacher-gguf-q8_0")])[0]
    texts: dict[str, list[str]] = {name: [] for name in ("none", *exported)}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(served(name, teacher, threads, draft=draft))
            for name, draft in {"none": None, **exported}.items()
        }
        seconds = in_turns(
            list(servers), lambda name, source: texts[name].append(servers[name].answer(source)[0]), sources
        )
        engines: dict[str, Any] = {name: system.model.engine for name, system in servers.items()}
        accepted = {name: engine.accepted / max(1, engine.drafted) for name, engine in engines.items()}
    return {
        name: {
            "speedup": sum(seconds["none"]) / sum(seconds[name]),
            "acceptance": accepted[name],
            "identical": sum(a == b for a, b in zip(texts[name], texts["none"], strict=True)) / len(sources),
        }
        for name in drafts
    }
