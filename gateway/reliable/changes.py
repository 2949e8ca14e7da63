"""Changes of a session's groups and permissions: asked for by clients and by REST, decided by the log.

A join is done when the group's owner has confirmed it and the entry is folded, so what is published
afterwards reaches the session; a leave when the entry is folded and the owner knows. Changes of one session
and group go one after another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from gateway.reliable.session import Session
from hubwire.bus.inbox_entries import acked_entry, joined_entry, left_entry, permission_entry
from hubwire.bus.keys import group_key
from hubwire.bus.settle import settle
from hubwire.model.errors import HubwireError, Unavailable
from hubwire.model.permissions import Permission

if TYPE_CHECKING:
    from gateway.reliable.holder import Holder

Done = Callable[[HubwireError | None], None]
Elsewhere = Callable[[Session, str, Callable[[], None]], None]
Over = Callable[[], None]
"""The turn of the next change of that session and group."""


class Changes:
    """The changes of one holder's sessions. Every `done` is called exactly once, possibly at once: with
    None, with NotFound when the session is over, or Unavailable when it is not known whether it was
    changed."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self.elsewhere: Elsewhere = lambda _session, _key, done: done()
        """Calls back when nobody else counts as a member of the key on account of the session."""

    def join(self, session: Session, group: str, done: Done) -> None:
        self._in_turn(session, group, partial(self._join, session, group), done)

    def leave(self, session: Session, group: str, done: Done) -> None:
        self._in_turn(session, group, partial(self._leave, session, group), done)

    async def permission(self, session: Session, granted: bool, permission: Permission, group: str) -> bool:
        """Grant, or revoke. False when the session cannot have so many rules. Raises what `join` reports."""
        self._check(session)
        permissions = session.permissions
        probe = type(permissions).restored(permissions.snapshot())
        if not (probe.grant if granted else probe.revoke)(permission, group):
            return False
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = permission_entry(session.id, granted, permission, group)
        self._holder.log.write(entry, partial(settle, future, None))
        await future
        self._check(session)
        return True

    def still_here(self, session: Session, done: Done) -> None:
        """Nothing is changed; `done` says whether the session is this gateway's still, so that what is known
        of it here is so. A mark that is not read yet stands in the log before an entry of now."""
        try:
            self._check(session)
            self._holder.log.write(acked_entry([]), lambda error: done(error or session.fault()))
        except HubwireError as error:
            done(error)

    @staticmethod
    def _check(session: Session) -> None:
        if (fault := session.fault()) is not None:
            raise fault

    def _in_turn(
        self, session: Session, group: str, change: Callable[[Done, Over], None], done: Done
    ) -> None:
        """Begin a change of the group once the turn of those before it is over."""
        if session.changes is None:
            session.changes = {}
        waiting = session.changes.get(group)

        def over() -> None:
            changes = session.changes
            assert changes is not None
            queue = changes[group]
            if queue:
                asyncio.get_running_loop().call_soon(queue.pop(0))
            else:
                del changes[group]
                if not changes:
                    session.changes = None

        def begin() -> None:
            try:
                self._check(session)
                change(done, over)
            except HubwireError as error:
                over()
                done(error)

        if waiting is None:
            session.changes[group] = []
            begin()
        else:
            waiting.append(begin)

    def _join(self, session: Session, group: str, done: Done, over: Over) -> None:
        holder = self._holder
        key = group_key(session.hub, group)

        def finished(error: HubwireError | None) -> None:
            over()
            done(error)

        if group in session.groups:
            holder.needs.when_confirmed(
                [key], lambda error: finished(error) if error else self.still_here(session, finished)
            )
            return
        holder.needs.need(key)

        def folded(error: HubwireError | None) -> None:
            fault = error or session.fault()
            if group in session.groups and fault is None:
                if session.announced:
                    holder.notifications.joined(session, group)
                holder.log.end(session.id)
                finished(None)
            else:
                self._take_back(session, group, key, over)
                holder.log.end(session.id)
                done(fault or Unavailable("The session has lost its log."))

        def confirmed(error: HubwireError | None) -> None:
            if error is None:
                try:
                    self._check(session)
                    holder.log.write(joined_entry(session.id, group), folded)
                    # It may come behind the mark of another gateway, and is taken back then: the session must
                    # not come here again before that, or the taking back would be of its next stay.
                    holder.log.begin(session.id)
                    return
                except HubwireError as fault:
                    error = fault
            holder.needs.release(key)
            finished(error)

        holder.needs.when_confirmed([key], confirmed)

    def _take_back(self, session: Session, group: str, key: str, over: Over) -> None:
        """The join is not known to be in the log, and may come into it yet: a leave behind it settles that.
        The key is needed until then, and for good if the session has gone meanwhile and taken its keys with
        it. The turn is over only then: to join again meanwhile would be undone by it."""

        def settled(_error: HubwireError | None) -> None:
            if group not in session.groups:
                self._holder.needs.release(key)
            over()

        self._holder.log.insist(session.id, left_entry(session.id, group), settled)

    def _leave(self, session: Session, group: str, done: Done, over: Over) -> None:
        holder = self._holder
        key = group_key(session.hub, group)

        def left(_late: HubwireError | None) -> None:
            self.elsewhere(session, key, partial(done, None))

        def not_a_member(error: HubwireError | None) -> None:
            over()
            if error is not None:
                done(error)
            else:  # who has left it a moment ago may not be known to have
                holder.needs.when_left(key, left)

        if group not in session.groups:
            self.still_here(session, not_a_member)
            return

        def folded(error: HubwireError | None) -> None:
            over()
            if group not in session.groups:
                holder.needs.release(key)  # else it has gone with all its keys
            fault = error or session.fault()
            if fault is not None:
                done(fault)
                return
            if session.announced:
                holder.notifications.left(session, group)
            holder.needs.when_left(key, left)

        # Tried for ever: what was left must be left, and its key with it.
        holder.log.write(left_entry(session.id, group), folded, seconds=None)
