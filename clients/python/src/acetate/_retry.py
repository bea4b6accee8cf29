"""When a request is sent again, and after which pause."""

from __future__ import annotations

import random
import time

import httpx

from .errors import ApiError, ConnectionFailed

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
# With these, the server has accepted nothing, so that every request may be sent again.
_NOTHING_ACCEPTED = frozenset({429, 503})


class Backoff:
    """How much longer one request is retried: `seconds` from its first failure."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until: float | None = None
        self._failures = 0

    def pause(self, failure: ApiError | ConnectionFailed) -> float:
        """Returns how long to wait before the next attempt; raises the failure if there is none."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        longest = min(_FIRST_PAUSE_SECONDS * 2.0**self._failures, _LONGEST_PAUSE_SECONDS)
        self._failures = min(self._failures + 1, 16)
        pause = longest * random.uniform(0.5, 1.0)
        if isinstance(failure, ApiError) and failure.retry_after is not None:
            # Not all clients come back at the same moment.
            pause = failure.retry_after + random.uniform(0.0, 0.25)
        if now + pause > self._until:
            raise failure
        return pause


def may_repeat(failure: ApiError, *, idempotent: bool) -> bool:
    """Whether a request that the server refused may be sent again."""
    return failure.status in _NOTHING_ACCEPTED or (idempotent and failure.retryable)


def never_sent(error: httpx.TransportError) -> bool:
    """Whether the request did not reach the server, so that even one that is not idempotent may be sent again."""
    return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
