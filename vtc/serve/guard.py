"""Check the host and the key of every request before its body is read."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from vtc.serve.errors import ApiError

OPEN_PATHS = ("/health",)
"""Paths that need no key."""


class Guard:
    """ASGI middleware that refuses unknown hosts and wrong keys.

    A page in a browser can reach a loopback server under the page's host name (DNS rebinding), so
    the Host must be an IP address, ``localhost``, or one of ``hosts``.

    Args:
        hosts: Other allowed host names of the server.
        key: The key that clients send as ``Authorization: Bearer KEY``; None: no key is needed.
    """

    def __init__(self, app: Any, hosts: Collection[str] = (), key: str | None = None) -> None:
        self._app = app
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            try:
                self._check(scope["path"], Headers(scope=scope))
            except ApiError as error:
                await JSONResponse(error.body(), error.status)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, path: str, headers: Headers) -> None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise ApiError(
                403,
                f"this server does not answer to the host name {', '.join(hosts)!r}; use its IP "
                "address, or start it with --allowed-host NAME",
                code="host_not_allowed",
            )
        if self._key is None or path in OPEN_PATHS:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        # Headers are decoded as latin-1, so encoding restores the bytes.
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.encode("latin-1"), self._key):
            raise ApiError(
                401, "expected the header Authorization: Bearer KEY", code="invalid_api_key"
            )

    def _is_ours(self, host: str) -> bool:
        name = host.lower()
        if not name.endswith("]"):
            name = name.rpartition(":")[0] if name.rpartition(":")[2].isdecimal() else name
        if name.removesuffix(".") in self._hosts:
            return True
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True
