"""Which keys this gateway's reliable sessions need messages of, counted.

A key is registered with its owner when the first session, join or recovery needs it, and left when none
does any more (DESIGN.md section 4, "Membership"): a join that is not confirmed yet and a recovery that is
under way need their keys like a session that has them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from gateway.registrar import Confirmed, Registrar
from hubwire.bus.keys import reliable_key
from hubwire.model.errors import HubwireError, Unavailable


class Needs:
    """Counts per plain key (hubwire.bus.keys); registers the reliable twin of it."""

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar
        self._counts: dict[str, int] = {}
        self._doubtful: set[str] = set()
        """Keys that no owner has confirmed in time. Nobody counts on them until they were left and
        registered anew."""

    def need(self, key: str) -> None:
        """One more needs the key. Raises Unavailable, and counts nothing, when too many registrations
        wait."""
        count = self._counts.get(key, 0)
        if not count:
            self._registrar.join(reliable_key(key))
        self._counts[key] = count + 1

    def need_all(self, keys: Iterable[str]) -> None:
        """`need` each, or none of them when one raises."""
        taken: list[str] = []
        try:
            for key in keys:
                self.need(key)
                taken.append(key)
        except BaseException:
            self.release_all(taken)
            raise

    def has(self, key: str) -> bool:
        """Whether anybody needs the key."""
        return key in self._counts

    def release(self, key: str) -> None:
        """One less; without any the key is left."""
        count = self._counts.get(key, 0)
        if count > 1:
            self._counts[key] = count - 1
        elif count == 1:
            del self._counts[key]
            self._doubtful.discard(key)
            self._registrar.leave(reliable_key(key))

    def release_all(self, keys: Iterable[str]) -> None:
        for key in keys:
            self.release(key)

    def when_confirmed(self, keys: Iterable[str], confirmed: Confirmed) -> None:
        """Call back once the owners of all of these keys, which are needed, have confirmed them, or with the
        first error."""
        wanted = [*keys]
        left = len(wanted)
        called = False

        def one(key: str, error: HubwireError | None) -> None:
            nonlocal left, called
            left -= 1
            if error is not None and key in self._counts:
                self._doubtful.add(key)
            if not called and (error is not None or left == 0):
                called = True
                confirmed(error)

        if not wanted:
            confirmed(None)
        elif not self._doubtful.isdisjoint(wanted):
            confirmed(Unavailable("The owner of a group or user does not answer."))
        else:
            for key in wanted:
                self._registrar.when_confirmed(reliable_key(key), partial(one, key))

    def confirm_again(self, keys: Iterable[str], confirmed: Confirmed) -> None:
        """The same, and behind all that the owners have stamped by now, also for keys that were confirmed
        long ago: for another session, whose log of before must have all that stands here already."""
        self._registrar.confirm_again([reliable_key(key) for key in keys], confirmed)

    def when_left(self, key: str, known: Confirmed) -> None:
        """Call back once the owner knows that the key was left, or did not answer in time."""
        self._registrar.when_left(reliable_key(key), known)
