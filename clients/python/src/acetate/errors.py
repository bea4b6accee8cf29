"""What can go wrong: every error of this package, with the server's stable codes."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

# 408, 429 and 503: nothing was accepted. The others come from proxies.
_LATER = frozenset({408, 429, 502, 503, 504})


class AcetateError(Exception):
    """The base of every error of this package."""

    retryable: bool = False
    """Whether the same call may succeed later."""


class ConnectionFailed(AcetateError):
    """The server could not be reached, or the connection broke, and trying again did not help."""

    retryable = True


class IntegrityError(AcetateError):
    """A downloaded file is not the one that the server lists."""

    retryable = True


class ApiError(AcetateError):
    """The server refused a request (`application/problem+json`).

    Attributes:
        status: the HTTP status.
        code: the reason, which never changes, for instance `invalid_request` or `queue_full`.
        detail: what is wrong, where, and what is valid.
        field: the invalid part of the request, for instance `params.steps`.
        job: the id of the job concerned, if the request did not name it.
        retry_after: how long the server asks to wait, in seconds.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        job: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{detail} ({code}, HTTP {status})")
        self.status = status
        self.code = code
        self.detail = detail
        self.field = field
        self.job = job
        self.retry_after = retry_after
        self.retryable = status in _LATER


class InvalidRequest(ApiError):
    """The request or a picture in it is not valid; `field` says where (400, 413, 415, 422)."""


class Unauthorized(ApiError):
    """The token is missing or wrong (401)."""


class Forbidden(ApiError):
    """The server does not allow this address, host or origin (403)."""


class NotFound(ApiError):
    """There is no such job, batch or file, or it was deleted (404, 410)."""


class Conflict(ApiError):
    """The job's state does not allow this, or its id or key belongs to another job (409, or 422 for a key)."""


class RateLimited(ApiError):
    """There were too many requests or too many waiting jobs for longer than the client's `retry_seconds` (429)."""


class Unavailable(ApiError):
    """The server, or something that it needs, does not work (5xx)."""


class JobError(AcetateError):
    """The base of the errors of one job. `job_id` names it."""

    def __init__(self, job_id: str, message: str) -> None:
        super().__init__(message)
        self.job_id = job_id


class JobFailed(JobError):
    """The job failed. `code` is the reason, `error_class` is `invalid`, `transient` or `device`."""

    def __init__(self, job_id: str, code: str, error_class: str, message: str) -> None:
        super().__init__(job_id, f"job {job_id} failed: {message} ({code})")
        self.code = code
        self.error_class = error_class
        self.message = message
        self.retryable = error_class in {"transient", "device"}


class JobCancelled(JobError):
    """The job was cancelled."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, f"job {job_id} was cancelled")


class WaitTimeout(JobError, TimeoutError):
    """The job had not ended within the `timeout` of the call; it goes on."""

    retryable = True

    def __init__(self, job_id: str, seconds: float) -> None:
        super().__init__(job_id, f"job {job_id} has not ended within {seconds:g} s; it goes on: client.job({job_id!r})")


class BatchTimeout(AcetateError, TimeoutError):
    """The batch had not ended within the `timeout` of the call; its jobs go on."""

    retryable = True

    def __init__(self, batch: str, seconds: float) -> None:
        super().__init__(f"batch {batch} has not ended within {seconds:g} s; it goes on: client.batch({batch!r})")
        self.batch = batch


class RowsRefused(AcetateError):
    """The server refused some rows of a batch; all others were submitted.

    `refused` has the refused rows with their errors. Correct them and call `batch()` again with all rows: rows that
    were submitted before are not submitted twice.
    """

    def __init__(self, batch: str, submitted: int, refused: Sequence[tuple[int, object, AcetateError]]) -> None:
        index, _, error = refused[0]
        rows = "1 row" if len(refused) == 1 else f"{len(refused)} rows"
        super().__init__(f"batch {batch}: {rows} refused, {submitted} submitted; the first one is row {index}: {error}")
        self.batch = batch
        self.refused = tuple(refused)


class InvalidSignature(AcetateError):
    """A webhook was not signed with this secret, or its time is too far from now."""


def from_response(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Makes the error for a response that is not a success."""
    problem = _problem(body)
    detail = problem.get("detail")
    code = problem.get("code")
    retry_after = _seconds(headers.get("retry-after"))
    if not isinstance(code, str) or not isinstance(detail, str):
        text = " ".join(body[:200].decode("utf-8", "replace").split())
        code, detail = "http", f"the response is not acetate's; does the address name an acetate server? {text}".strip()
    kind = _kind(status, code)
    return kind(status, code, detail, field=problem.get("field"), job=problem.get("job"), retry_after=retry_after)


def _problem(body: bytes) -> dict[str, Any]:
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _kind(status: int, code: str) -> type[ApiError]:
    if code == "conflict":
        return Conflict
    kinds: dict[int, type[ApiError]] = {401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict}
    kinds |= {410: NotFound, 429: RateLimited, 400: InvalidRequest, 413: InvalidRequest, 415: InvalidRequest}
    kinds |= {422: InvalidRequest}
    return kinds.get(status, Unavailable if status >= 500 else ApiError)


def _seconds(retry_after: str | None) -> float | None:
    """Reads `Retry-After`: seconds, or a date."""
    if retry_after is None:
        return None
    try:
        return float(max(0, int(retry_after)))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
