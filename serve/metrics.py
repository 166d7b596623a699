"""Prometheus figures of one ingress replica: requests by route and status, seconds by stage, requests in flight."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """A registry of its own, so that two applications in one process don't meet."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "frozenseg_requests", "Requests by route and status.", ("route", "status"), registry=self._registry
        )
        self._stages = Histogram(
            "frozenseg_stage_seconds", "Seconds by stage.", ("stage",), buckets=BUCKETS, registry=self._registry
        )
        self._images = Counter("frozenseg_images", "Images segmented.", ("task",), registry=self._registry)

    def count_request(self, route: str, status: int) -> None:
        """One request came to its end."""
        self._requests.labels(route=route, status=str(status)).inc()

    def count_image(self, task: str, seconds: Mapping[str, float]) -> None:
        """One image was segmented; `seconds` by stage."""
        self._images.labels(task=task).inc()
        for stage, value in seconds.items():
            self._stages.labels(stage=stage).observe(value)

    def text(self) -> bytes:
        """The exposition that Prometheus scrapes."""
        return generate_latest(self._registry)
