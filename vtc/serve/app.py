"""The ASGI application: routes, requests and answers."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, time
from typing import IO, Any

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from vtc.serve.answer import Answerer, check_length
from vtc.serve.errors import ApiError
from vtc.serve.guard import Guard
from vtc.serve.media import Media
from vtc.serve.metrics import CONTENT_TYPE, Metrics
from vtc.serve.prompt import Turn
from vtc.serve.replies import Replies, event
from vtc.serve.schema import ChatRequest, Image, Text, read_request
from vtc.serve.worker import Job, Worker

MEBIBYTE = 2**20
_BODY_SECONDS, _SEND_SECONDS = 60, 60
_BODIES = 32
_GONE = ApiError(499, "the client left")


@dataclass(frozen=True)
class Settings:
    """Settings of the server for its clients.

    Attributes:
        model: The name of the model in requests.
        max_upload: The maximum number of bytes of a request's body.
        hosts, key: See `Guard`.
    """

    model: str
    max_upload: int = 64 * MEBIBYTE
    hosts: Collection[str] = ()
    key: str | None = None


class Server:
    """Answers requests with one model."""

    def __init__(
        self, answerer: Answerer, worker: Worker, media: Media, settings: Settings
    ) -> None:
        self.answerer, self.worker, self.media, self.settings = answerer, worker, media, settings
        self.metrics = Metrics(lambda: worker.waiting, lambda: worker.running)
        self._bodies = 0
        self._one_at_a_time = anyio.CapacityLimiter(1)  # parse one large body at a time
        self._began = int(time())

    def app(self, on_end: Callable[[], None] = lambda: None) -> FastAPI:
        """Return the ASGI application.

        Args:
            on_end: Called when the server has stopped.
        """

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            yield
            await anyio.to_thread.run_sync(on_end)

        app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_api_route("/v1/models", self.models)
        app.add_api_route("/v1/models/{name:path}", self.model)
        app.add_api_route("/health", self.health)
        app.add_api_route("/metrics", self.metrics_page)
        app.add_exception_handler(ApiError, _api_error)
        app.add_exception_handler(HTTPException, _http_error)
        app.add_exception_handler(Exception, _any_error)
        app.add_middleware(Guard, hosts=self.settings.hosts, key=self.settings.key)
        return app

    async def models(self) -> JSONResponse:
        """List the model."""
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, name: str) -> JSONResponse:
        """Describe the model."""
        self._require_model(name)
        return JSONResponse(self._card())

    async def health(self) -> JSONResponse:
        """Return 200 if the server accepts requests."""
        try:
            self.worker.require_room()
        except ApiError as error:
            if error.status != 429:  # a full queue is healthy
                raise
        waiting, running = self.worker.waiting, self.worker.running
        return JSONResponse({"status": "ok", "waiting": waiting, "running": running})

    async def metrics_page(self) -> Response:
        """Return the counters for Prometheus."""
        return Response(self.metrics.text(), media_type=CONTENT_TYPE)

    async def chat(self, request: Request) -> Response:
        """Answer a conversation."""
        began, status = monotonic(), 500
        stack = AsyncExitStack()
        stack.callback(lambda: self.metrics.seconds.observe(monotonic() - began))
        try:
            exchange = await self._begin(request, stack)
            response = await exchange.response(stack.pop_all())
            status = response.status_code
            return response
        except ApiError as error:
            status = error.status
            raise
        finally:
            await stack.aclose()
            self.metrics.requests.labels(str(status)).inc()

    async def _begin(self, request: Request, stack: AsyncExitStack) -> Exchange:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # pages of other origins cannot send it without CORS
            raise ApiError(415, "expected the header Content-Type: application/json")
        self.worker.require_room()
        body = await self._read_body(request)
        uploads = stack.enter_context(self.media.upload_folder())
        read, turns = await anyio.to_thread.run_sync(
            self._read, body, uploads, limiter=self._one_at_a_time
        )
        exchange = Exchange(self, request, read)
        exchange.job = Job(
            lambda job: self.answerer.answer(read, turns, lambda text: job.emit("text", text)),
            exchange.emit,
        )
        stack.push_async_callback(exchange.close)
        self.worker.submit(exchange.job)
        return exchange

    async def _read_body(self, request: Request) -> IO[bytes]:
        """Write the body to a file; if it is too large, read it to its end and raise."""
        if self._bodies >= _BODIES:
            raise ApiError(429, f"{_BODIES} requests are being sent, which is the maximum")
        self._bodies += 1
        limit, size = self.settings.max_upload, 0
        try:
            with ExitStack() as stack:
                body = stack.enter_context(tempfile.SpooledTemporaryFile(MEBIBYTE))
                with anyio.fail_after(_BODY_SECONDS):
                    async for piece in request.stream():
                        size += len(piece)
                        if size <= limit:
                            body.write(piece)
                if size > limit:
                    raise ApiError(
                        413,
                        f"expected a body of at most {limit / MEBIBYTE:.0f} MiB, got "
                        f"{size / MEBIBYTE:.0f}; put the video below a --video-root of the server",
                    )
                body.seek(0)
                stack.pop_all()
                return body
        except ClientDisconnect as error:
            raise _GONE from error
        except TimeoutError as error:
            raise ApiError(408, f"the body took more than {_BODY_SECONDS} seconds") from error
        finally:
            self._bodies -= 1

    def _read(self, body: IO[bytes], uploads: Path) -> tuple[ChatRequest, list[Turn]]:
        with body:
            request = read_request(body)
        self._require_model(request.model)
        check_length(request, self.answerer.limits)
        turns = []
        for number, message in enumerate(request.messages):
            role = "system" if message.role == "developer" else message.role
            items = []
            for place, part in enumerate(message.content):
                param = f"messages[{number}].content[{place}]"
                items.append(self._item(part, uploads, param))
            turns.append(Turn(role, items))
        request.messages.clear()  # they hold the uploads
        return request, turns

    def _item(self, part: Any, uploads: Path, param: str) -> Any:
        if isinstance(part, Text):
            return part.text
        if isinstance(part, Image):
            return self.media.image(part.image_url.url, f"{param}.image_url")
        return self.media.video(part.video_url.url, uploads, f"{param}.video_url")

    def _require_model(self, name: str) -> None:
        if name != self.settings.model:
            raise ApiError(
                404,
                f"there is no model {name!r} here; this server has {self.settings.model!r}",
                param="model",
                code="model_not_found",
            )

    def _card(self) -> dict[str, Any]:
        card = {"id": self.settings.model, "object": "model", "owned_by": "vtc"}
        return {**card, "created": self._began}


class Exchange:
    """One request and its answer, which the worker returns in pieces."""

    job: Job

    def __init__(self, server: Server, request: Request, read: ChatRequest) -> None:
        self._server, self._http, self._request = server, request, read
        self._replies = Replies(read)
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()
        self._watch = self._loop.create_task(self._stop_when_gone())

    def emit(self, kind: str, value: Any) -> None:
        """Queue an event; called in the worker's thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, (kind, value))

    async def response(self, stack: AsyncExitStack) -> Response:
        """Return the answer, or a stream once it has its first text.

        Args:
            stack: Closed after the answer.

        Raises:
            ApiError: The request failed before it had any text.
        """
        async with stack:
            kind, value = await self._next()
            if self._request.stream:
                return EventStream(self._stream(kind, value), stack.pop_all())
            pieces = []
            while kind == "text":
                pieces.append(value)
                kind, value = await self._next()
            self._count(value)
            return JSONResponse(self._replies.whole("".join(pieces), value))

    async def close(self) -> None:
        """Stop the job if it has not ended."""
        self._server.worker.stop(self.job, _GONE)
        self._watch.cancel()

    async def _next(self) -> tuple[str, Any]:
        kind, value = await self._events.get()
        if kind == "error":
            raise value
        return kind, value

    async def _stream(self, kind: str, value: Any) -> AsyncIterator[bytes]:
        yield self._replies.first()
        try:
            while kind == "text":
                yield self._replies.piece(value)
                kind, value = await self._next()
        except ApiError as error:
            yield event(error.body())
            return
        self._count(value)
        for reply in self._replies.last(value):
            yield reply

    async def _stop_when_gone(self) -> None:
        while (await self._http.receive())["type"] != "http.disconnect":
            pass
        self._server.metrics.disconnects.inc()
        self._server.worker.stop(self.job, _GONE)

    def _count(self, result: Any) -> None:
        metrics = self._server.metrics
        metrics.tokens.labels("prompt").inc(result.prompt_tokens)
        metrics.tokens.labels("completion").inc(result.completion_tokens)
        if result.report is not None:
            metrics.visual_tokens.labels("before").inc(result.report.tokens_before)
            metrics.visual_tokens.labels("after").inc(result.report.tokens_after)
            metrics.frames.inc(result.report.frames)


class EventStream(Response):
    """Server-sent events.

    Args:
        events: The events to send.
        stack: Closed at the end, even if nothing was sent.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._stack = events, stack

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._stack:
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            async for body in self._events:
                await _send(send, body, more=True)
            await _send(send, b"", more=False)


async def _send(send: Any, body: bytes, more: bool) -> None:
    with anyio.fail_after(_SEND_SECONDS):  # a client may not read
        await send({"type": "http.response.body", "body": body, "more_body": more})


async def _api_error(_: Request, error: Any) -> JSONResponse:
    headers = {"retry-after": "1"} if error.status in (429, 503) else None
    return JSONResponse(error.body(), error.status, headers)


async def _http_error(_: Request, error: Any) -> JSONResponse:
    return JSONResponse(ApiError(error.status_code, str(error.detail)).body(), error.status_code)


async def _any_error(_: Request, error: Any) -> JSONResponse:
    return JSONResponse(ApiError(500, "the server failed; see its log").body(), 500)
