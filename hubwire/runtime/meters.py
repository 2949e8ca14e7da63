"""What is measured: metrics as a table, and where their numbers are read when somebody asks.

Hot paths only count, in plain integers of their own. A service says once where these are to be found
(`Meters.bind`); they are read when Prometheus scrapes or OpenTelemetry pushes (`hubwire.runtime.exporter`),
so a metric that nobody looks at costs nothing but its integer.

Names are OpenTelemetry's (dotted, without unit or `_total`); Prometheus sees them in its own manner, see
`Meter.prometheus`. Labels have few values, known beforehand; where one is a hub, `HubLabels` bounds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Literal, NamedTuple, TypeAlias, TypeVar

from hubwire.model.buckets import Buckets

Kind: TypeAlias = Literal["counter", "gauge", "updown", "histogram"]

OTHER_HUBS = "_other"
"""The label of all hubs beyond the cap. No hub can have this name: theirs begin with a letter."""

_UNITS = {"s": "seconds", "By": "bytes"}


class Meter(NamedTuple):
    """One metric. `unit` is UCUM: s, By, 1, or {what is counted}. `azure` is the name of Azure Monitor's
    metric that says the same, where there is one."""

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    azure: str = ""

    @property
    def prometheus(self) -> str:
        """The name of the series; of a histogram without _bucket, _sum or _count."""
        name = self.name.replace(".", "_")
        unit = _UNITS.get(self.unit, "")
        if unit and not name.endswith("_" + unit):
            name += "_" + unit
        return name + "_total" if self.kind == "counter" else name


Value: TypeAlias = "int | float | Buckets"
Sample: TypeAlias = "tuple[tuple[str, ...], Value]"
Reader: TypeAlias = "Callable[[], Value | Iterable[Sample] | None]"
"""Reads a metric: its value when it has no labels, else a value for each set of labels, in their order.
None: there is nothing to say. May be called on another thread, so what it iterates over must be copied in
one step (`list`, `dict`)."""

Readers: TypeAlias = "Mapping[Meter, Reader]"


class Meters:
    """The metrics of one process, and where each is read now."""

    def __init__(self) -> None:
        self._readers: dict[Meter, Reader] = {}
        self.on_new: Callable[[Meter], None] = lambda _meter: None
        """Told of each metric when it is first bound."""
        self._known: set[Meter] = set()

    def bind(self, readers: Readers) -> Callable[[], None]:
        """Read these metrics there, until the returned function is called or others are bound for them."""
        self._readers.update(readers)
        for meter in readers:
            if meter not in self._known:
                self._known.add(meter)
                self.on_new(meter)

        def unbind() -> None:
            for meter, reader in readers.items():
                if self._readers.get(meter) is reader:
                    del self._readers[meter]

        return unbind

    @property
    def known(self) -> list[Meter]:
        """Every metric that was ever bound, also if nothing can be read of it now."""
        return sorted(self._known)

    def read(self, meter: Meter) -> list[Sample]:
        """The values of a metric now."""
        reader = self._readers.get(meter)
        found = reader() if reader is not None else None
        if found is None:
            return []
        if isinstance(found, (int, float, Buckets)):
            return [((), found)]
        return list(found)


T = TypeVar("T")


class PerHub(Generic[T]):
    """One `T` for each hub, for the first `most` hubs that are heard of; one for all others together."""

    def __init__(self, make: Callable[[], T], most: int) -> None:
        self._make = make
        self._most = most
        self._by_hub: dict[str, T] = {}
        self._others: T | None = None

    def of(self, hub: str) -> T:
        found = self._by_hub.get(hub)
        if found is None:
            if len(self._by_hub) < self._most:
                found = self._by_hub[hub] = self._make()
            else:
                if self._others is None:
                    self._others = self._make()
                found = self._others
        return found

    def items(self) -> list[tuple[str, T]]:
        """Label and what belongs to it."""
        found = list(self._by_hub.items())
        return [*found, (OTHER_HUBS, self._others)] if self._others is not None else found
