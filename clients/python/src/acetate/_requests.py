"""The bodies of requests, and the ids of a batch's rows."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ._inputs import Inputs
from ._plain import plain

# The names that the reference's Python pipeline has for parameters of jobs.
_ALIASES = {"layer_num": "layers", "num_inference_steps": "steps"}
_ROWS = uuid.uuid5(uuid.NAMESPACE_OID, "acetate python client, row of a batch")


@dataclass(frozen=True)
class Submission:
    """A job to submit."""

    body: Mapping[str, Any]
    inputs: Inputs
    key: str | None

    @contextlib.contextmanager
    def content(self) -> Iterator[dict[str, Any]]:
        """The arguments for httpx: JSON, or a form whose files are read while they are sent."""
        if not self.inputs.is_form:
            yield {"json": {**self.body, **self.inputs.body()}}
            return
        with self.inputs.fields() as parts:
            yield {"data": {"request": json.dumps(self.body)}, "files": parts}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that make it safe to send again."""
        return {"Idempotency-Key": self.key} if self.key is not None else {}


def submission(
    kind: str,
    inputs: Inputs,
    params: Mapping[str, Any],
    *,
    id: str | None,
    idempotency_key: str | None,
    extra: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Submission:
    """Makes a submission. Without an id or a key of the caller, it gets a key of its own."""
    if id is not None and idempotency_key is not None:
        raise ValueError("give an id or an idempotency_key, not both: the server ignores the key of a job with an id")
    body: dict[str, Any] = {"kind": kind, "params": plain(_params(kind, params))}
    body |= plain({name: value for name, value in fields.items() if value is not None})
    body |= plain(extra or {})
    if isinstance(body.get("output"), str):
        body["output"] = {"prefix": body["output"]}
    if id is not None:
        return Submission({**body, "id": str(id)}, inputs, None)
    return Submission(body, inputs, idempotency_key or str(uuid.uuid4()))


def _params(kind: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a job. Those of a workflow have parts with parameters of their own."""
    params = _named(given)
    if kind != "workflow":
        return params
    edits = params.get("edits", ())
    if isinstance(edits, Mapping):
        edits = [{"layer": layer, "instruction": instruction} for layer, instruction in edits.items()]
    params["edits"] = [_named(edit) for edit in edits]
    if "decompose" in params:
        params["decompose"] = _named(params["decompose"])
    return params


def _named(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters: without those that are `None`, and with the API's names."""
    params: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        known = _ALIASES.get(name, name)
        if known in params:
            raise TypeError(f"{known} is given twice: {name} is another name for it")
        params[known] = value
    return params


def row_id(batch: str, submission: Submission) -> str:
    """The id of a row: the same content in the same batch is the same job.

    The content of uploads counts, not their names. Whether a result may be reused is not part of the content.
    """
    body = {name: value for name, value in submission.body.items() if name != "reuse"}
    whole = {**body, "input": submission.inputs.identity()}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return str(uuid.uuid5(_ROWS, f"{batch}\0{text}"))


def deadline_in(timeout: float | None) -> float | None:
    """The moment, on the monotonic clock, at which a wait ends."""
    return None if timeout is None else time.monotonic() + timeout


def remaining(deadline: float | None) -> float:
    """The seconds until a deadline; infinite if there is none."""
    return float("inf") if deadline is None else deadline - time.monotonic()
