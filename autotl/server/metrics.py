"""What Prometheus asks a server for."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

__all__ = ["Metrics"]

SECONDS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own.

    Args:
        num_waiting: says how many images wait for their turn.
    """

    def __init__(self, num_waiting: Callable[[], int] = lambda: 0):
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter("autotl_requests", "Requests.", ("path", "status"), registry=self.registry)
        self.seconds = Histogram(
            "autotl_request_seconds",
            "Seconds from a request to its answer.",
            ("path",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.images = Counter("autotl_images", "Images answered.", ("answer",), registry=self.registry)
        self.batches = Histogram("autotl_batch_images", "Images in a batch.", buckets=IMAGES, registry=self.registry)
        self.waiting = Gauge("autotl_waiting_images", "Images that wait for their turn.", registry=self.registry)
        self.waiting.set_function(num_waiting)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)
