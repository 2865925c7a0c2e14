"""The HTTP application: health, metrics, models, the routes that write, and errors in OpenAI's form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import instil
from instil.core import console
from instil.core.errors import InstilError
from instil.serve import routes
from instil.serve.gate import Gate
from instil.serve.jobs import ServeError
from instil.serve.keys import read_keys
from instil.serve.models import describe
from instil.serve.replies import error_body
from instil.serve.service import Service


def make_app(service: Service, *, log: Callable[[str], None] = console.say) -> ASGIApp:
    """The application over `service`. `log` gets one JSON line a request. Raises `ConfigError` for a bad key file."""
    app = FastAPI(title="instil", version=instil.__version__, redoc_url=None)
    app.state.service = service
    app.include_router(routes.router)
    _add_plain_routes(app, service)
    _add_errors(app)
    if service.config.cors:
        app.add_middleware(
            CORSMiddleware, allow_origins=service.config.cors, allow_methods=["GET", "POST"], allow_headers=["*"]
        )
    return Gate(app, service, read_keys(service.config.keys) if service.config.keys else {}, log)


def _add_plain_routes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "The server is about to end, or an engine has ended."}})
    async def readyz() -> JSONResponse:
        """Whether requests are accepted and can be answered."""
        state = service.state
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """All models served."""
        return {"object": "list", "data": [describe(model) for model in service.models.values()]}

    @app.get("/v1/models/{name:path}", responses={404: {"description": "No such model."}})
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        return describe(service.model(name))


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(InstilError)
    async def refused(_: Request, error: InstilError) -> JSONResponse:
        status = error.status if isinstance(error, ServeError) else 400
        after = error.retry_after if isinstance(error, ServeError) else None
        return JSONResponse(error_body(str(error), status), status, {"Retry-After": str(after)} if after else None)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body") or None
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "no such field here; leave it out"
        return JSONResponse(error_body(f"{place}: {message}" if place else message, 400, param=place), 400)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(error_body(str(error.detail), error.status_code), error.status_code, error.headers)
