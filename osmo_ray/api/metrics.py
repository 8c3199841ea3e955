"""Figures for Prometheus: requests of this replica, and what the store counts when somebody looks."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCIES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """One registry per application, so that two in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "osmo_api_requests", "HTTP requests answered", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "osmo_api_request_seconds",
            "Seconds until an answer was complete (streams: until they ended)",
            ["route"],
            buckets=_LATENCIES,
            registry=self.registry,
        )
        self._status = Gauge(
            "osmo_status",
            "Workflows and tasks by status: alive, or ended in the last day",
            ["kind", "status"],
            registry=self.registry,
        )
        self._figures = Gauge(
            "osmo_controller",
            "Figures of the controller: counters since its start, sizes and durations (seconds) as they are now",
            ["figure"],
            registry=self.registry,
        )
        self._nodes = Gauge("osmo_nodes", "Nodes by what they are", ["state"], registry=self.registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(
        self, counts: Mapping[str, Mapping[str, int]], nodes: Mapping[str, int], figures: Mapping[str, float]
    ) -> bytes:
        """The page that Prometheus reads."""
        self._figures.clear()
        for name, value in figures.items():
            self._figures.labels(name).set(value)
        self._status.clear()
        for kind, by_status in counts.items():
            for status, number in by_status.items():
                self._status.labels(kind, status).set(number)
        for state, number in nodes.items():
            self._nodes.labels(state).set(number)
        return generate_latest(self.registry)
