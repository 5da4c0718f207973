"""Checks of every request before anything of it is read: Host, and the key."""

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
    """ASGI middleware that refuses foreign hosts and wrong keys.

    A page in a browser can reach a server on the loopback under a name of its own (DNS rebinding),
    so the Host must be an IP address, ``localhost``, or one of ``hosts``.

    Args:
        hosts: Names under which the server may be reached.
        key: What clients send as ``Authorization: Bearer KEY``; None: nothing.
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
                f"this server does not answer under the name {', '.join(hosts)!r}; use its IP "
                "address, or start it with --allowed-host NAME",
                code="host_not_allowed",
            )
        if self._key is None or path in OPEN_PATHS:
            return
        scheme, _, key = headers.get("authorization", "").partition(" ")
        # Headers are decoded from latin-1, so any byte can be encoded again.
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
