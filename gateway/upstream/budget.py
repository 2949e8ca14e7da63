"""How much may wait in memory. Pure."""

from __future__ import annotations


class Budget:
    """Bytes that may wait in memory, for each upstream and for all."""

    def __init__(self, each: int, all: int, overhead: int) -> None:
        self._each = each
        self._all = all
        self._overhead = overhead
        self._used: dict[object, int] = {}
        self.total = 0

    def room(self, key: object, size: int) -> bool:
        cost = size + self._overhead
        return self._used.get(key, 0) + cost <= self._each and self.total + cost <= self._all

    def take(self, key: object, size: int) -> None:
        cost = size + self._overhead
        self._used[key] = self._used.get(key, 0) + cost
        self.total += cost

    def give_back(self, key: object, size: int) -> None:
        cost = size + self._overhead
        self.total -= cost
        left = self._used.get(key, 0) - cost
        if left > 0:
            self._used[key] = left
        else:
            self._used.pop(key, None)
