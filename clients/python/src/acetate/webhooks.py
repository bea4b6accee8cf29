"""Checks the signatures of webhooks (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import InvalidSignature

TOLERANCE_SECONDS = 300.0
_PREFIX = "whsec_"


@dataclass(frozen=True)
class Event:
    """The end of a job, as a webhook reports it."""

    webhook_id: str
    """The same for every attempt to deliver one message; use it to recognize repetitions."""
    event: str
    """`job.succeeded`, `job.failed` or `job.cancelled`."""
    job_id: str
    kind: str
    state: str
    batch: str | None
    labels: Mapping[str, str]
    error: Mapping[str, Any] | None
    data: Mapping[str, Any] = field(repr=False)
    """The whole body."""


@dataclass(frozen=True)
class BatchEvent:
    """The end of a batch, as the webhook of `--batch-webhook` or `http.batch_webhook` reports it."""

    webhook_id: str
    """The same for every attempt to deliver one message; use it to recognize repetitions."""
    event: str
    """`batch.ended`."""
    batch: str
    jobs: int
    succeeded: int
    failed: int
    cancelled: int
    errors: Mapping[str, int]
    """The failed jobs by the code of their error."""
    time: str
    """When the last job ended."""
    data: Mapping[str, Any] = field(repr=False)
    """The whole body."""


def verify(
    headers: Mapping[str, str],
    body: bytes | str,
    secret: str | Sequence[str],
    *,
    tolerance_seconds: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> Event | BatchEvent:
    """Checks a webhook's signature and returns its event: of a job, or a `BatchEvent` of a batch.

    Args:
        headers: the request's headers, in any case.
        body: the request's body exactly as it arrived, before any JSON parser.
        secret: the server's `http.webhook_secret`, `whsec_...`; or several, while you change it.
        tolerance_seconds: how far the webhook's time may be from now, so that an old one cannot be replayed.
        now: the time in seconds since 1970, for tests.

    Raises:
        InvalidSignature: a header is missing, the time is too far from now, or no signature is right.
        ValueError: the secret is not `whsec_` and base64.
    """
    keys = [_key(one) for one in ([secret] if isinstance(secret, str) else secret)]
    given = {name.lower(): value for name, value in headers.items()}
    webhook_id, timestamp, signatures = (_header(given, f"webhook-{part}") for part in ("id", "timestamp", "signature"))
    raw = body.encode() if isinstance(body, str) else bytes(body)

    try:
        sent_at = int(timestamp)
    except ValueError:
        raise InvalidSignature("webhook-timestamp is not a number of seconds") from None
    if abs((time.time() if now is None else now) - sent_at) > tolerance_seconds:
        raise InvalidSignature(
            f"webhook-timestamp is more than {tolerance_seconds:g} s from now; check this machine's clock"
        )

    signed = f"{webhook_id}.{timestamp}.".encode() + raw
    wanted = [hmac.new(key, signed, hashlib.sha256).digest() for key in keys]
    if not _any_equal(wanted, signatures):
        raise InvalidSignature("no signature in webhook-signature is right for this body and secret")
    return _event(webhook_id, raw)


def _key(secret: str) -> bytes:
    wrong = "a webhook secret is whsec_ and base64, as in the server's http.webhook_secret"
    if not secret.startswith(_PREFIX):
        raise ValueError(wrong)
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(wrong) from None
    if not key:
        raise ValueError(wrong)
    return key


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name)
    if not value:
        raise InvalidSignature(f"the header {name} is missing")
    return value


def _any_equal(wanted: Sequence[bytes], signatures: str) -> bool:
    """Compares all of them, each in constant time."""
    equal = False
    for signature in signatures.split():
        version, _, text = signature.partition(",")
        try:
            given = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            continue
        for one in wanted:
            equal |= version == "v1" and hmac.compare_digest(one, given)
    return equal


def _event(webhook_id: str, body: bytes) -> Event | BatchEvent:
    try:
        data = json.loads(body)
        if data["event"].startswith("batch."):
            return BatchEvent(
                webhook_id=webhook_id,
                event=data["event"],
                batch=data["batch"],
                jobs=data["jobs"],
                succeeded=data["succeeded"],
                failed=data["failed"],
                cancelled=data["cancelled"],
                errors=data.get("errors") or {},
                time=data["time"],
                data=data,
            )
        return Event(
            webhook_id=webhook_id,
            event=data["event"],
            job_id=data["id"],
            kind=data["kind"],
            state=data["state"],
            batch=data.get("batch"),
            labels=data.get("labels") or {},
            error=data.get("error"),
            data=data,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidSignature(f"the body is signed, but it is not an event of a job or a batch: {error!r}") from error
