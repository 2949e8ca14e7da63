"""What a partition's owner knows of the members: which gateways hold which keys. Pure.

DESIGN.md section 4, "Membership". A gateway is *synced* once its snapshot for this partition has
arrived; until then it counts as a member of everything, so an owner that has just started, or lost its
memory, is never wrong, only less economical. After the snapshot only numbered transitions arrive; a gap
in the numbers or a digest that differs makes the gateway unsynced again, and it is asked for a snapshot.

Of a gateway that was lost its reliable sessions can come back elsewhere, so its reliable keys stay, until
its inbox has gone; if they were not known, it counts as a member of everything reliable until then.

Messages can be repeated, and a repeat can arrive late, by another way through the bus: nothing that is
older than the highest number heard of a gateway ever makes it synced.
"""

from __future__ import annotations

from collections.abc import Iterable

from hubwire.bus.digest import digest_of
from hubwire.bus.keys import is_reliable

_NONE: frozenset[str] = frozenset()
_NO_KEYS: set[str] = set()
"""Of every view that is not synced, and there can be a quarter of a million."""


class _View:
    """One gateway, as this partition's owner sees it."""

    __slots__ = ("digest", "highest", "keys", "parts", "seq", "synced")

    def __init__(self) -> None:
        self.synced = False
        self.seq = 0  # the transitions up to here are in `keys`
        self.highest = 0  # the highest number heard, also while not synced
        self.digest = 0
        self.keys: set[str] = _NO_KEYS  # never changed while not synced
        self.parts: _Parts | None = None


class _Parts:
    """A snapshot of which more is to come."""

    __slots__ = ("digest", "keys", "next", "seq")

    def __init__(self, seq: int, digest: int) -> None:
        self.seq = seq
        self.digest = digest
        self.next = 0
        self.keys: set[str] = set()


class PartitionMembers:
    """The members of one partition. Every method is total: any order of calls leaves it consistent."""

    __slots__ = ("_by_key", "_lost", "_lost_unknown", "_unsynced", "_views")

    def __init__(self, gateways: Iterable[str] = ()) -> None:
        self._views: dict[str, _View] = {}
        self._by_key: dict[str, set[str]] = {}
        self._unsynced: set[str] = set()
        self._lost: dict[str, set[str]] = {}  # their reliable keys
        self._lost_unknown: set[str] = set()
        for gateway in gateways:
            self.gateway_seen(gateway)

    @property
    def unsynced(self) -> set[str]:
        """Gateways whose members are not known: they get everything. Do not change the set."""
        return self._unsynced

    @property
    def lost_unknown(self) -> set[str]:
        """Lost gateways of whose reliable members nothing is known: their inboxes get everything. Do not
        change the set."""
        return self._lost_unknown

    @property
    def lost(self) -> list[str]:
        """Every lost gateway that counts here."""
        return [*self._lost, *self._lost_unknown]

    def is_lost(self, gateway: str) -> bool:
        return gateway in self._lost or gateway in self._lost_unknown

    def members(self, key: str) -> set[str] | frozenset[str]:
        """Gateways known to hold the key; of a reliable key also lost ones. Do not change the set."""
        return self._by_key.get(key, _NONE)

    def keys_of(self, gateway: str) -> frozenset[str]:
        view = self._views.get(gateway)
        return frozenset(view.keys) if view is not None else _NONE

    @property
    def key_count(self) -> int:
        """How many keys have members."""
        return len(self._by_key)

    @property
    def gateways(self) -> list[str]:
        """Every gateway that counts here, synced or not."""
        return list(self._views)

    def gateway_seen(self, gateway: str) -> None:
        """A gateway is alive. One that is new here is unsynced until its snapshot comes."""
        if gateway not in self._views:
            self.gateway_gone(gateway)  # it was not lost: it was not heard for a while
            self._views[gateway] = _View()
            self._unsynced.add(gateway)

    def gateway_ended(self, gateway: str, *, inbox: bool = False) -> None:
        """A gateway's lease has ended: its connections are gone. With `inbox` those of its reliable sessions
        that are not known to have ended can still come back elsewhere: it is lost."""
        view = self._views.pop(gateway, None)
        if view is None:
            return
        kept = {key for key in view.keys if is_reliable(key)} if inbox else _NO_KEYS
        unknown = inbox and not view.synced
        self._drop_keys(gateway, view)
        self._unsynced.discard(gateway)
        if unknown:
            self._lost_unknown.add(gateway)
        elif kept:
            self._lost[gateway] = kept
            for key in kept:
                self._by_key.setdefault(key, set()).add(gateway)

    def gateway_lost(self, gateway: str) -> None:
        """There is the inbox of a gateway that does not live, and that we may know nothing of."""
        if gateway not in self._views and gateway not in self._lost:
            self._lost_unknown.add(gateway)

    def gateway_gone(self, gateway: str) -> None:
        """A lost gateway's inbox is no more: none of its sessions comes back."""
        for key in self._lost.pop(gateway, _NO_KEYS):
            self._remove(gateway, key)
        self._lost_unknown.discard(gateway)

    def snapshot(
        self, gateway: str, seq: int, digest: int, keys: Iterable[str], part: int = 0, parts: int = 1
    ) -> bool:
        """Replace what is known of a gateway, once the last part is here. False: send a new snapshot;
        this one contradicts itself, lacks a part, or is older than what was heard since."""
        self.gateway_seen(gateway)
        view = self._views[gateway]
        if seq < view.highest:
            return view.synced and seq <= view.seq  # a repeat from before later transitions; those stand
        view.highest = seq
        if part == 0:
            view.parts = _Parts(seq, digest)
        gathered = view.parts
        if gathered is None or (gathered.seq, gathered.digest, gathered.next) != (seq, digest, part):
            view.parts = None
            return False
        gathered.keys.update(keys)
        gathered.next += 1
        if gathered.next < parts:
            return True
        view.parts = None
        return self._replace(gateway, view, gathered)

    def _replace(self, gateway: str, view: _View, new: _Parts) -> bool:
        if view.synced and (view.seq, view.digest) == (new.seq, new.digest):
            return True
        computed = 0
        for key in new.keys:
            computed ^= digest_of(key)
        if computed != new.digest:
            return False
        self._drop_keys(gateway, view)
        for key in new.keys:
            self._by_key.setdefault(key, set()).add(gateway)
        view.keys = new.keys
        view.seq = new.seq
        view.digest = new.digest
        view.synced = True
        self._unsynced.discard(gateway)
        return True

    def transition(self, gateway: str, key: str, joins: bool, seq: int, digest: int) -> bool:
        """Apply a numbered join or leave. False: the gateway must send a snapshot (it is unsynced now,
        so it gets everything and the change is safe to confirm)."""
        self.gateway_seen(gateway)
        view = self._views[gateway]
        view.highest = max(view.highest, seq)
        if not view.synced:
            return False
        if seq <= view.seq:
            return True  # a repeat
        if seq != view.seq + 1:
            self._unsync(gateway, view)
            return False
        view.seq = seq
        if joins != (key in view.keys):
            view.digest ^= digest_of(key)
            if joins:
                view.keys.add(key)
                self._by_key.setdefault(key, set()).add(gateway)
            else:
                view.keys.discard(key)
                self._remove(gateway, key)
        if view.digest != digest:
            self._unsync(gateway, view)
            return False
        return True

    def has(self, gateway: str, key: str) -> bool:
        """Whether the gateway gets what is published to the key. One that says that it must, and does not,
        is unsynced from now on."""
        self.gateway_seen(gateway)
        view = self._views[gateway]
        if view.synced and key not in view.keys:
            self._unsync(gateway, view)
            return False
        return True

    def _unsync(self, gateway: str, view: _View) -> None:
        view.synced = False
        self._drop_keys(gateway, view)
        self._unsynced.add(gateway)

    def _drop_keys(self, gateway: str, view: _View) -> None:
        for key in view.keys:
            self._remove(gateway, key)
        view.keys = _NO_KEYS

    def _remove(self, gateway: str, key: str) -> None:
        holders = self._by_key.get(key)
        if holders is not None:
            holders.discard(gateway)
            if not holders:
                del self._by_key[key]
