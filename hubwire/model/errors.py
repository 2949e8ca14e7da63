"""The closed list of error categories.

    HubwireError
      InvalidRequest       the caller sent something that can never work
      ProtocolViolation    a client broke its subprotocol; carries the close code
      Unauthenticated      no credentials, or credentials that do not verify
      PermissionDenied     known caller, missing right
      NotFound             the connection, user, group or hub is not there
      Conflict             the change collides with the present state
      LimitExceeded        over a documented limit
      SlowConsumer         a client does not read what it is sent
      Unavailable          bus lost, no owner, draining: try again
      InternalError        our bug

No HTTP status and no reply lives here: each edge has one table (`controlplane.problems`,
`gateway.transport`) and a test that walks all categories.
"""

from __future__ import annotations


class HubwireError(Exception):
    """Base of every error that Hubwire raises on purpose. `code` is stable, for logs and metrics."""

    code = "internal"
    retryable = False


class InvalidRequest(HubwireError):
    """The request can never work as it is. `target` names the parameter or property at fault."""

    code = "invalid_request"

    def __init__(self, message: str, target: str | None = None) -> None:
        super().__init__(message)
        self.target = target


class ProtocolViolation(HubwireError):
    """A client message that cannot be accepted; the connection is closed with `close_code`.

    Codes: client-protocols.md 1.11 (1002, 1003, 1007, 1009). Codecs raise this and nothing else.
    """

    code = "protocol_violation"

    def __init__(self, message: str, close_code: int = 1007) -> None:
        super().__init__(message)
        self.close_code = close_code


class Unauthenticated(HubwireError):
    code = "unauthenticated"


class PermissionDenied(HubwireError):
    code = "permission_denied"


class NotFound(HubwireError):
    code = "not_found"


class Conflict(HubwireError):
    code = "conflict"


class LimitExceeded(HubwireError):
    code = "limit_exceeded"

    def __init__(self, what: str, limit: int, observed: int) -> None:
        super().__init__(f"{what} is {observed}, over the limit of {limit}.")
        self.what = what
        self.limit = limit
        self.observed = observed


class SlowConsumer(HubwireError):
    code = "slow_consumer"

    def __init__(self, queued_bytes: int, limit: int) -> None:
        super().__init__(f"The client does not read: {queued_bytes} bytes wait, the limit is {limit}.")
        self.queued_bytes = queued_bytes
        self.limit = limit


class Unavailable(HubwireError):
    """The bus or an owner did not answer in time. The same request may work later."""

    code = "unavailable"
    retryable = True


class InternalError(HubwireError):
    code = "internal"
