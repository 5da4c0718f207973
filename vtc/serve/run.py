"""Run the server until a signal stops it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from vtc.serve.errors import ApiError
from vtc.serve.worker import Worker

_STOPPING = ApiError(503, "the server is stopping; try again later", code="stopping")


class GracefulServer(uvicorn.Server):
    """Shuts down gracefully: finishes the running request and refuses the waiting ones.

    Args:
        worker: The worker to close.
        grace: Seconds that the running request may still take.
    """

    def __init__(self, config: uvicorn.Config, worker: Worker, grace: float) -> None:
        super().__init__(config)
        self._worker, self._grace = worker, grace

    async def shutdown(self, sockets: Any = None) -> None:
        self._worker.close(_STOPPING)
        timer = asyncio.get_running_loop().call_later(
            self._grace, self._worker.stop_running, _STOPPING
        )
        await super().shutdown(sockets)
        timer.cancel()


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket that is not yet listening.

    Raises:
        OSError: The address is in use, or not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OSError(f"cannot serve on {host}:{port}: {error.strerror}") from error
    return bound


def is_loopback(host: str) -> bool:
    """Return whether an address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(
    make_app: Callable[[Callable[[], None]], Any],
    bound: socket.socket,
    worker: Worker,
    grace: float,
    on_end: Callable[[], None],
) -> None:
    """Serve an application until SIGTERM or Ctrl-C.

    Args:
        make_app: Returns the application; its argument is the function to call at the end.
        on_end: Called when the last request has ended.
    """

    def end() -> None:
        worker.close(_STOPPING)
        worker.stop_running(_STOPPING)
        worker.join()
        on_end()

    config = uvicorn.Config(
        make_app(end), server_header=False, timeout_graceful_shutdown=int(grace) + 10
    )
    try:
        # uvicorn re-raises the signal that stopped it, so the application calls end().
        GracefulServer(config, worker, grace).run(sockets=[bound])
    finally:
        end()
