"""What became of one delivery: an answer over HTTP, or the failure to get one. Pure."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

FailureCategory: TypeAlias = Literal[
    "unsendable",  # the event or the address can never be sent (3.2)
    "address_refused",  # the address policy forbids where the URL leads (4.10)
    "validation",  # abuse protection was refused (2.4)
    "token",  # no credentials for the upstream (1.5)
    "overloaded",  # too much waits for this upstream already
    "circuit_open",  # it failed too often lately, so it is left alone for a while
    "network",  # no connection, or it broke (4.8)
    "timeout",  # the time for the event was over (4.8)
    "not_ready",  # the service itself does not know its keys yet
    "refused",  # the connect handler said no (4.2); not a fault of anybody
    "status",  # an answer, but not a success
    "bad_answer",  # an answer that cannot be processed (4.2, 4.5)
    "too_large",  # an answer over the limit (4.9)
    "unsupported",  # a tunnel:/// address, which nobody serves here
    "no_handler",  # neither a handler nor a listener is for a client's event (4.6)
    "listener",  # the broker of an event listener did not take its copy (5.2)
]
LATER: frozenset[str] = frozenset(
    ("validation", "token", "overloaded", "circuit_open", "network", "timeout", "not_ready", "listener")
)


class Answer(NamedTuple):
    """A complete HTTP answer, of whatever status. `headers` have lower-case names, in their order, repeated
    ones each. Header bytes are Latin-1 text. `seconds` is the time of the whole delivery."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    attempts: int = 1
    seconds: float = 0.0

    @property
    def success(self) -> bool:
        return 200 <= self.status <= 299

    def values(self, name: str) -> list[str]:
        """All values of a header, whose name is given in lower case."""
        return [value for each, value in self.headers if each == name]

    def value(self, name: str) -> str | None:
        """The last value of a header; None when it is absent."""
        return next((value for each, value in reversed(self.headers) if each == name), None)


class DeliveryFailure(NamedTuple):
    """An event that was not delivered, or whose answer is no success.

    `reason` is a sentence for the operator, without secrets and payloads; `url` is without its secrets.
    `status` is that of the last answer, when there was one.
    """

    category: FailureCategory
    status: int | None
    reason: str
    attempts: int
    seconds: float
    url: str

    @property
    def may_work_later(self) -> bool:
        """Whether the same event has a chance at another time: for queues that keep notifications."""
        if self.category == "status":
            return self.status == 429 or is_retried(self.status or 0)
        return self.category in LATER


def is_retried(status: int) -> bool:
    """The table of 4.8. What is no status of HTTP at all, such as 999, is no 5xx."""
    return status == 408 or 500 <= status <= 599


def failed_status(answer: Answer, url: str) -> DeliveryFailure:
    """An answer that is no success (4.1); redirects are not followed."""
    hint = "; redirects are not followed" if 300 <= answer.status <= 399 else ""
    reason = f"The event handler answered {answer.status}{hint}."
    return DeliveryFailure("status", answer.status, reason, answer.attempts, answer.seconds, url)
