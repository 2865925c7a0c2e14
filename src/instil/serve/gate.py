"""The gate that every request passes: its size, its key, its count, its line in the log. Plain ASGI, for streams."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instil.serve.jobs import ServeError
from instil.serve.keys import name_of
from instil.serve.replies import error_body
from instil.serve.service import Service


@dataclass(slots=True)
class _Visit:
    """One request on its way through."""

    path: str
    headers: Mapping[bytes, bytes]
    number: str
    begun: float = field(default_factory=time.monotonic)
    status: int = 500
    owner: str | None = None


class Gate:
    """Counts the requests that are open in `service.under_way`, which draining waits for. `keys`: hashes by name."""

    def __init__(self, app: ASGIApp, service: Service, keys: Mapping[str, str], log: Callable[[str], None]) -> None:
        self.app = app
        self.service = service
        self.keys = dict(keys)
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's own start and end."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        visit = _Visit(scope["path"], headers, _number(headers))
        scope.setdefault("state", {})["note"] = {}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", visit.number.encode())]
            await send(message)

        self.service.under_way += 1
        try:
            await self._pass(visit, scope, receive, answer)
        finally:
            self.service.under_way -= 1
            self._account(visit, scope)

    async def _pass(self, visit: _Visit, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] != "OPTIONS" and visit.path.startswith("/v1"):
                visit.owner = self._owner(visit.headers)
            body = await self._body(visit.headers, receive)
        except ServeError as error:
            await _refuse(send, error)
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    def _owner(self, headers: Mapping[bytes, bytes]) -> str | None:
        if not self.keys:
            return None
        scheme, _, key = headers.get(b"authorization", b"").decode("latin1").partition(" ")
        owner = name_of(key.strip(), self.keys) if scheme.lower() == "bearer" else None
        if owner is None:
            raise ServeError("no valid API key; send it as: Authorization: Bearer KEY", 401)
        return owner

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body. Raises `ServeError` 413 as soon as it is known to be too large."""
        most = self.service.config.limits.body_bytes
        declared = headers.get(b"content-length", b"")
        body = bytearray()
        more = not (declared.isdigit() and int(declared) > most)
        too_large = not more
        while more and not too_large:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            too_large = len(body) > most
        if too_large:
            raise ServeError(f"the request is larger than {most} bytes; send less at once", 413)
        return bytes(body)

    def _account(self, visit: _Visit, scope: Scope) -> None:
        route = scope.get("route")
        path = getattr(route, "path", "other")
        seconds = time.monotonic() - visit.begun
        self.service.metrics.requests.labels(path, str(visit.status)).inc()
        self.service.metrics.seconds.labels(path).observe(seconds)
        if visit.path.startswith("/v1"):
            line: dict[str, Any] = {
                "time": round(time.time(), 3), "request": visit.number, "path": path, "status": visit.status,
                "ms": round(1000 * seconds, 1), "key": visit.owner, **scope["state"]["note"],
            }  # fmt: skip
            self.log(json.dumps(line, ensure_ascii=False))


def _number(headers: Mapping[bytes, bytes]) -> str:
    """The client's own X-Request-Id if it is a plain one, else a new one."""
    given = headers.get(b"x-request-id", b"").decode("latin1")
    return given if given.isascii() and given.isalnum() and len(given) <= 64 else uuid.uuid4().hex


async def _refuse(send: Send, error: ServeError) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if error.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error_body(str(error), error.status)).encode()})
