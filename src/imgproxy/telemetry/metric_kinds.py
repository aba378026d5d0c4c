"""What a declaration of a metric has: kind, labels with their bounds, buckets, unit, and the operator's question."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class Kind(StrEnum):
    """The types of Prometheus. INFO is a gauge that is always 1; its labels say something."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


class Unit(StrEnum):
    """What a value is counted in. NUMBER: things, as the help says. YES_NO: 1 or 0."""

    NUMBER = ""
    SECONDS = "seconds"
    BYTES = "bytes"
    YES_NO = "1 or 0"


class Group(StrEnum):
    """The questions of an operator, in the order in which they are asked."""

    WELL = "Is it well?"
    READERS = "What do readers wait for?"
    CACHE = "Is the cache good?"
    PURGES = "Purges: when is a takedown done?"
    CDNS = "Caches in front"
    CLUSTER = "Cluster and shared store"
    MEMORY = "Memory, processor and connections"


@dataclass(frozen=True, slots=True)
class Label:
    """A label. It has the values that are listed, or those that `bound` describes: never what a stranger sends."""

    name: str
    values: tuple[str, ...] = ()
    bound: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """
    A metric.

    `name` is that of its samples: with `_total` for a counter, `_info` for an info; without the `_bucket` of a
    histogram. `buckets` are upper bounds, in the unit of the metric. `needs`: the section of the configuration without
    which there is no such metric; empty: it is always there.
    """

    name: str
    kind: Kind
    help: str
    group: Group
    labels: tuple[Label, ...] = ()
    unit: Unit = Unit.NUMBER
    buckets: tuple[float, ...] = ()
    needs: str = ""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The names of its labels."""
        return tuple(label.name for label in self.labels)

    @property
    def family(self) -> str:
        """The name as prometheus_client wants it: it appends the ending of a counter."""
        return self.name.removesuffix("_total") if self.kind is Kind.COUNTER else self.name

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names that the samples have on the page."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.name}_{ending}" for ending in ("bucket", "sum", "count"))
        return (self.name,)


@dataclass(frozen=True, slots=True)
class Section:
    """Declares the metrics of one question."""

    group: Group
    needs: str = ""

    def counter(self, name: str, help_text: str, *labels: Label, unit: Unit = Unit.NUMBER) -> Metric:
        """Declare a value that only grows, until the process starts again."""
        return self._metric(Kind.COUNTER, name, help_text, labels, unit=unit)

    def gauge(self, name: str, help_text: str, *labels: Label, unit: Unit = Unit.NUMBER) -> Metric:
        """Declare a value that goes up and down."""
        return self._metric(Kind.GAUGE, name, help_text, labels, unit=unit)

    def info(self, name: str, help_text: str, *labels: Label) -> Metric:
        """Declare facts that do not change while the process runs."""
        return self._metric(Kind.INFO, name, help_text, labels)

    def seconds(self, name: str, help_text: str, *labels: Label, buckets: Sequence[float]) -> Metric:
        """Declare durations, counted in buckets."""
        return self._metric(Kind.HISTOGRAM, name, help_text, labels, unit=Unit.SECONDS, buckets=tuple(buckets))

    def _metric(self, kind: Kind, name: str, help_text: str, labels: Sequence[Label], **more: Any) -> Metric:
        return Metric(name, kind, help_text, self.group, tuple(labels), needs=self.needs, **more)
