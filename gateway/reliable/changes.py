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
from hubwire.bus.inbox_entries import joined_entry, left_entry, permission_entry
from hubwire.bus.keys import group_key
from hubwire.bus.settle import settle
from hubwire.model.errors import HubwireError, NotFound, Unavailable
from hubwire.model.permissions import Permission

if TYPE_CHECKING:
    from gateway.reliable.holder import Holder

Done = Callable[[HubwireError | None], None]

CHANGE_SECONDS = 10.0


class Changes:
    """The changes of one holder's sessions. Every `done` is called exactly once, possibly at once: with
    None, with NotFound when the session is over, or Unavailable when it is not known whether it was
    changed."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder

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

    def _check(self, session: Session) -> None:
        if session.over:
            raise NotFound("The connection is closed.")
        if session.moving:
            raise Unavailable("The session is on its way to another gateway.")

    def _in_turn(self, session: Session, group: str, change: Callable[[Done], None], done: Done) -> None:
        """Begin a change of the group once those before it are done."""
        if session.changes is None:
            session.changes = {}
        waiting = session.changes.get(group)

        def finished(error: HubwireError | None) -> None:
            changes = session.changes
            if changes is not None:
                queue = changes[group]
                if queue:
                    following = queue.pop(0)
                    asyncio.get_running_loop().call_soon(following)
                else:
                    del changes[group]
                    if not changes:
                        session.changes = None
            done(error)

        def begin() -> None:
            try:
                self._check(session)
                change(finished)
            except HubwireError as error:
                finished(error)

        if waiting is None:
            session.changes[group] = []
            begin()
        else:
            waiting.append(begin)

    def _join(self, session: Session, group: str, done: Done) -> None:
        holder = self._holder
        key = group_key(session.hub, group)
        if group in session.groups:
            holder.needs.when_confirmed([key], done)
            return
        holder.needs.need(key)

        def folded(error: HubwireError | None) -> None:
            if group in session.groups and not session.over and not session.moving:
                if session.announced:
                    holder.notifications.joined(session, group)
                done(None)
            else:
                self._take_back(session, group, key)
                done(error or Unavailable("The session is on its way to another gateway."))

        def confirmed(error: HubwireError | None) -> None:
            if error is None:
                try:
                    self._check(session)
                    holder.log.write(joined_entry(session.id, group), folded)
                    return
                except HubwireError as fault:
                    error = fault
            holder.needs.release(key)
            done(error)

        holder.needs.when_confirmed([key], confirmed)

    def _take_back(self, session: Session, group: str, key: str) -> None:
        """The join is not known to be in the log, and may come into it yet: a leave behind it settles that.
        The key is needed until then, and for good if the session has gone meanwhile and taken its keys with
        it."""

        def settled(_error: HubwireError | None) -> None:
            if group not in session.groups:
                self._holder.needs.release(key)

        try:
            self._holder.log.write(left_entry(session.id, group), settled, seconds=None)
        except HubwireError:
            settled(None)

    def _leave(self, session: Session, group: str, done: Done) -> None:
        holder = self._holder
        if group not in session.groups:
            done(None)
            return
        key = group_key(session.hub, group)

        def folded(error: HubwireError | None) -> None:
            if error is not None or group in session.groups:
                done(error or Unavailable("The session is on its way to another gateway."))
                return
            if session.announced and not session.over:
                holder.notifications.left(session, group)
            holder.needs.release(key)
            holder.needs.when_left(key, lambda _late: done(None))

        # Tried for ever: what was left must be left, and its key with it.
        holder.log.write(left_entry(session.id, group), folded, seconds=None)
