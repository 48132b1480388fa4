"""A server of one page, for as long as its command runs."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from drmm.errors import RunError

__all__ = ["bound", "serve"]

_PORTS = range(20_000, 32_000)  # below those that systems lend to programs that call others
_PATIENCE = 10.0  # seconds for the head of a request
_CONNECTIONS = 64


def bound(host: str, port: int | None, store: Path) -> socket.socket:
    """A socket to listen at.

    Args:
        host: address or name of this machine.
        port: None takes a free one, for the same store the same whenever it is free: a page that is still open
            finds the server again.
        store: the labels.

    Raises:
        RunError: if nothing can listen there.
    """
    usual = _PORTS[zlib.crc32(os.fsencode(store.absolute())) % len(_PORTS)]
    try:
        family, *_, (address, *_) = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        if port is None:
            with suppress(OSError):
                return _listening(family, str(address), usual)
        return _listening(family, str(address), port or 0)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"cannot listen at {host}, port {port or usual} ({reason}): choose others") from error


def _listening(family: int, address: str, port: int) -> socket.socket:
    listening = socket.socket(family)
    try:
        if sys.platform != "win32":  # where it would let others in
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((address, port))
        listening.listen(_CONNECTIONS)
    except OSError:
        listening.close()
        raise
    return listening


def serve(app: ASGIApp, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Answer requests until Ctrl-C.

    Args:
        app: what answers.
        listening: of `bound`.
        ready: called as soon as there are answers.
    """
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what goes wrong is told by the guard
    with suppress(KeyboardInterrupt):
        _Server(_config(app), ready).run(sockets=[listening])


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Timed,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


class _Timed(H11Protocol):
    """Hangs up on who takes too long to say what is wanted."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(_PATIENCE, transport.close)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        super().data_received(data)
        if self._late is not None and self.cycle is not before:
            self._late.cancel()
            self._late = None
        elif self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._late = self.loop.call_later(_PATIENCE, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)
