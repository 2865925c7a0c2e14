"""The process: uvicorn over the application, from loading to a drained end."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from instil.core import console
from instil.core.errors import ConfigError
from instil.serve.app import make_app
from instil.serve.config import ServeConfig
from instil.serve.service import Service

_QUIET_S = 0.25
"""Draining ends when no request has been open for so long: a client's next one may be on its way already."""


class DrainingServer(uvicorn.Server):
    """On the first SIGTERM or SIGINT: every request that was accepted is answered, later ones get 503, then it ends.

    The port stays open meanwhile, so that nobody finds a closed door where an answer could be had. A second signal
    ends it at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain, or end."""
        if self.service.draining:
            self.should_exit = self.force_exit = True
            return
        console.say(f"{signal.Signals(sig).name}: answering {self.service.under_way} open requests, then ending")
        self.service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second by uvicorn; True ends it."""
        if self.service.draining and not self.service.under_way:
            await asyncio.sleep(_QUIET_S)
            self.should_exit = self.should_exit or not self.service.under_way
        return await super().on_tick(counter)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one. Raises `ConfigError` for an address that cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named, or asyncio does not take it for TCP and leaves Nagle's algorithm on: each answer on a connection that stays
    # open would wait 40 ms for the client's acknowledgement of its head.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except (OSError, OverflowError) as error:
        found.close()
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{host}:{port} cannot be listened on ({reason}); choose another --host or --port") from error
    return found


def serve(config: ServeConfig, *, say: Callable[[str], None] = console.say) -> None:
    """Load the models and answer requests until a signal comes."""
    door = listen(config.host, config.port)
    service = Service(config, say=say)
    try:
        app: ASGIApp = make_app(service)
        server = DrainingServer(_settings(app), service)
        host, port = door.getsockname()[:2]
        say(f"ready on http://{host}:{port}")
        server.run(sockets=[door])
    finally:
        door.close()
        service.close()


def _settings(app: ASGIApp) -> uvicorn.Config:
    # Requests are logged by the gate, without texts; uvicorn's own log would repeat them.
    return uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30)
