"""What the server counts, in the text format of Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)


class Metrics:
    """Counters of one server; `registry` is its own, so that a process may hold several."""

    def __init__(self, num_waiting: Callable[[], int]):
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "pav_requests", "requests answered", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "pav_request_seconds",
            "time from a request to the end of its answer",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.in_work = Gauge(
            "pav_requests_in_work", "requests that run or wait", registry=self.registry
        )
        waiting = Gauge(
            "pav_prompts_waiting", "prompts that wait for a row", registry=self.registry
        )
        waiting.set_function(num_waiting)
        self.prompt_tokens = Counter(
            "pav_prompt_tokens", "tokens of prompts read", registry=self.registry
        )
        self.completion_tokens = Counter(
            "pav_completion_tokens", "tokens of answers written", registry=self.registry
        )

    def text(self) -> bytes:
        """Return all counters."""
        return generate_latest(self.registry)
