"""Counters of the server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """The counters of one server.

    Args:
        waiting, running: Return the numbers of waiting and running requests.
    """

    def __init__(self, waiting: Callable[[], int], running: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "vtc_requests", "Chat requests by HTTP status.", ["status"], registry=registry
        )
        self.disconnects = Counter(
            "vtc_disconnects", "Requests whose client left before the end.", registry=registry
        )
        self.seconds = Histogram(
            "vtc_request_seconds",
            "Seconds from the start of a request to the end of its answer.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens = Counter(
            "vtc_tokens", "Tokens that the model read and wrote.", ["kind"], registry=registry
        )
        self.visual_tokens = Counter(
            "vtc_visual_tokens",
            "Visual tokens before and after compression.",
            ["when"],
            registry=registry,
        )
        self.frames = Counter("vtc_frames", "Frames of videos that were read.", registry=registry)
        Gauge("vtc_waiting", "Waiting requests.", registry=registry).set_function(waiting)
        Gauge("vtc_running", "Running requests.", registry=registry).set_function(running)

    def text(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        return generate_latest(self._registry)
