"""The routes that write: completions, chat, and plain text to text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, StreamingResponse

from instil.serve import replies
from instil.serve.jobs import Answer, Job, ServeError
from instil.serve.models import ServedModel
from instil.serve.replies import Shape
from instil.serve.requests import Asked, ChatRequest, CompletionRequest, GenerateRequest, Written
from instil.serve.service import Service
from instil.serve.streams import expiring, stream

_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "The request cannot be answered as it is."},
    401: {"description": "No valid API key."},
    404: {"description": "No such model."},
    413: {"description": "The request is too large."},
    429: {"description": "Too many requests wait; Retry-After tells when to come again."},
    503: {"description": "The server is about to end, or its engine failed."},
    504: {"description": "The deadline passed."},
}
router = APIRouter(prefix="/v1", responses=_REFUSALS)
_LOOK_EVERY_S = 1.0


async def _service(request: Request) -> Service:
    # Not `async` it would be asked for in another thread.
    service: Service = request.app.state.service
    return service


Serving = Annotated[Service, Depends(_service)]


@router.post("/completions")
async def completions(asked: CompletionRequest, request: Request, service: Serving) -> Any:
    """The text that follows each prompt."""
    model = service.model(asked.model)
    _require_few(service, len(asked.prompts) * asked.n)
    if asked.echo and model.engine.facts.kind == "encoder-decoder":
        raise ServeError(f"echo: {model.name} does not write its prompt; leave it out")
    if asked.stream and (asked.echo or asked.logprobs is not None):
        raise ServeError("stream: does not go together with echo or logprobs; leave one out")
    limit = service.new_tokens(model, asked.max_tokens)
    jobs = []
    for prompt in asked.prompts:
        ids = model.text_ids(prompt) if isinstance(prompt, str) else model.given_ids(prompt)
        jobs += _alike(service, asked, ids, limit, scores=asked.logprobs, echo=asked.echo)
    if asked.stream:
        return _streamed("text", asked, request, service, model, jobs)
    answers = await _answers(request, service, model, jobs)
    before = [_echoed(model, prompt) for prompt in asked.prompts for _ in range(asked.n)] if asked.echo else None
    return _whole("text", model, jobs, answers, asked.n, before=before, wanted=asked.logprobs is not None)


@router.post("/chat/completions")
async def chat(asked: ChatRequest, request: Request, service: Serving) -> Any:
    """What the model says next."""
    model = service.model(asked.model)
    limit = service.new_tokens(model, asked.max_completion_tokens or asked.max_tokens)
    ids = model.chat_ids([message.said for message in asked.messages])
    scores = (asked.top_logprobs or 0) if asked.logprobs else None
    jobs = _alike(service, asked, ids, limit, scores=scores)
    if asked.stream:
        if asked.logprobs:
            raise ServeError("stream: does not go together with logprobs; leave one out")
        return _streamed("chat", asked, request, service, model, jobs)
    return _whole("chat", model, jobs, await _answers(request, service, model, jobs), asked.n, wanted=asked.logprobs)


@router.post("/generate")
async def generate(asked: GenerateRequest, request: Request, service: Serving) -> Any:
    """One text for each input, in their order."""
    model = service.model(asked.model)
    _require_few(service, len(asked.inputs))
    limit = service.new_tokens(model, asked.max_new_tokens)
    jobs = [_job(service, asked, model.source_ids(text), limit) for text in asked.inputs]
    answers = await _answers(request, service, model, jobs)
    return JSONResponse({
        "model": model.name, "outputs": [answer.text.strip() for answer in answers],
        "usage": replies.usage(sum(len(job.ids) for job in jobs), answers),
    })  # fmt: skip


def _require_few(service: Service, prompts: int) -> None:
    most = service.config.limits.prompts
    if prompts > most:
        raise ServeError(f"{prompts} texts in one request, but at most {most} are taken; send several requests")


def _alike(service: Service, asked: Asked, ids: list[int], limit: int, **more: Any) -> list[Job]:
    """`asked.n` jobs on one prompt; further ones of a seeded request have seeds that follow."""
    return [_job(service, asked, ids, limit, number, **more) for number in range(asked.n)]


def _job(service: Service, asked: Written, ids: list[int], limit: int, number: int = 0, **more: Any) -> Job:
    """The job on `ids`, the answer of this `number` to one prompt."""
    return Job(
        ids, limit, asked.sampling.after(number), tuple(asked.stop), priority=asked.priority,
        deadline=service.deadline(asked.deadline_s), **more,
    )  # fmt: skip


def _echoed(model: ServedModel, prompt: str | list[int]) -> str:
    return prompt if isinstance(prompt, str) else str(model.engine.tokenizer.decode(prompt))


async def _answers(request: Request, service: Service, model: ServedModel, jobs: Sequence[Job]) -> list[Answer]:
    """All answers, in order. Gives the jobs up when the client goes away, or one of them fails."""
    service.submit(model, jobs)
    waiting = asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
    try:
        with expiring(model, jobs):
            while not (await asyncio.wait([waiting], timeout=_LOOK_EVERY_S))[0]:
                if await request.is_disconnected():
                    raise ServeError("the client went away", 499)
        answers = waiting.result()
    except BaseException:
        waiting.cancel()
        for job in jobs:
            job.cancel()
        raise
    _note(request, service, model, jobs, answers)
    return answers


def _note(
    request: Request, service: Service, model: ServedModel, jobs: Sequence[Job], answers: Sequence[Answer]
) -> None:
    """What the log tells of the request beside what every request tells."""
    note = request.state.note
    note |= {
        "model": model.name, "prompts": len(jobs), "prompt_tokens": sum(answer.prompt_tokens for answer in answers),
        "new_tokens": sum(answer.new_tokens for answer in answers), "cached": sum(answer.cached for answer in answers),
        "waited_ms": round(1000 * max(answer.waited_s for answer in answers), 1),
    }  # fmt: skip
    if service.config.log_texts:
        note["prompts_text"] = [model.engine.tokenizer.decode(job.ids) for job in jobs]
        note["answers_text"] = [answer.text for answer in answers]


def _whole(
    shape: Shape, model: ServedModel, jobs: Sequence[Job], answers: Sequence[Answer], n: int, *,
    before: Sequence[str] | None = None, wanted: bool = False,
) -> JSONResponse:  # fmt: skip
    choices = [
        replies.choice(shape, index, answer, before=before[index] if before else "", wanted=wanted)
        for index, answer in enumerate(answers)
    ]
    read = sum(len(job.ids) for job in jobs[::n])
    return JSONResponse(
        {**replies.head(shape, model.name), "choices": choices, "usage": replies.usage(read, answers)}
    )  # fmt: skip


def _streamed(
    shape: Shape, asked: Asked, request: Request, service: Service, model: ServedModel, jobs: list[Job]
) -> StreamingResponse:
    pieces = stream(service, model, jobs)  # Submits, so a full queue is answered 429 and not in mid-stream.
    wants_usage = bool(asked.stream_options and asked.stream_options.include_usage)

    async def events() -> AsyncIterator[str]:
        top = replies.head(shape, model.name, chunk=True)
        answers: list[Answer] = []
        if shape == "chat":
            for index in range(len(jobs)):
                yield replies.event({**top, "choices": [replies.OPENING | {"index": index}]})
        async for index, text, answer in pieces:
            if isinstance(answer, ServeError):
                yield replies.event(replies.error_body(str(answer), answer.status))
                return
            ended = answer.ended if answer else None
            yield replies.event({**top, "choices": [replies.piece(shape, index, text, ended)]})
            answers += [answer] if answer else []
        if wants_usage:
            read = sum(len(job.ids) for job in jobs[:: asked.n])
            yield replies.event({**top, "choices": [], "usage": replies.usage(read, answers)})
        _note(request, service, model, jobs, answers)
        yield replies.END_OF_STREAM

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
