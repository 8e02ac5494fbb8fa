"""From numbers to what Prometheus reads, in the format that the one who scrapes asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from streaming.core.distribution import MICROSECONDS
from streaming.core.metering import Kind, Metric, Samples

from .apps import app_metrics
from .catalogue import METRICS


def all_metrics() -> dict[str, Metric]:
    """The service's, and those of apps, by name."""
    return METRICS | app_metrics()


def exposed(samples: Samples, accept: str) -> tuple[bytes, str]:
    """The numbers as text, and its content type. `accept`: the request's header."""
    encode, content_type = choose_encoder(accept)
    return encode(_Collected(samples)), content_type


class _Collected(Collector):
    """`Samples`, for the library's encoders."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Family]:
        families = {name: (metric, _family(metric)) for name, metric in all_metrics().items()}
        for (name, labels), values in sorted(self._samples.items()):
            if name in families:
                _add(*families[name], labels, values)
        for _, family in families.values():
            if family.samples:
                yield family


def _family(metric: Metric) -> Family:
    match metric.kind:
        case Kind.COUNTER:
            return CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
        case Kind.GAUGE:
            return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
        case Kind.HISTOGRAM:
            return HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)


def _add(metric: Metric, family: Family, labels: tuple[str, ...], values: Sequence[float]) -> None:
    match family:
        case HistogramMetricFamily():
            total, *counts = values
            family.add_metric(labels, _buckets(metric, counts), sum_value=total / MICROSECONDS)
        case CounterMetricFamily():
            in_microseconds = metric.name.endswith("_seconds_total")
            family.add_metric(labels, values[0] / MICROSECONDS if in_microseconds else values[0])
        case GaugeMetricFamily():
            family.add_metric(labels, values[0])


def _buckets(metric: Metric, counts: Sequence[float]) -> list[tuple[str, float]]:
    """Each bound with the count up to it, all smaller ones included."""
    bounds = [*map(floatToGoString, metric.bounds), "+Inf"]
    up_to = 0.0
    buckets = []
    for bound, count in zip(bounds, counts, strict=True):
        up_to += count
        buckets.append((bound, up_to))
    return buckets
