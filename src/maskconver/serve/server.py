"""The application behind uvicorn, with limits for clients that are slow, silent or too many."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..core.malloc import set_malloc

HEADERS_WITHIN = 10.0  # seconds
CONNECTIONS = 256
HEADER_BYTES = 16 << 10


class Impatient(H11Protocol):
    """Closes connections on which no whole request line with its headers comes within `HEADERS_WITHIN`.

    uvicorn itself waits for ever, so that a few hundred silent clients would keep all others out.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        """The clock runs from a connection's or a request's first byte until its headers are there."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADERS_WITHIN, self._give_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def use_one_heap() -> None:
    """Have all threads allocate from one heap; to be called before there are any.

    glibc gives each thread a heap of its own. Arrays that one thread makes and another frees then leave gaps
    in all of them, and the memory of a server grows.
    """
    set_malloc(M_ARENA_MAX=1)


def create_server(app: Any) -> uvicorn.Server:
    """What serves an application until it is stopped.

    Args:
        app: of `create_app`.
    """
    config = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=HEADER_BYTES,
    )
    return uvicorn.Server(config)
