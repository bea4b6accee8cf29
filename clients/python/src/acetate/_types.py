"""What the server says about jobs, batches and models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias

from .errors import JobCancelled, JobFailed

Kind = Literal["decompose", "edit", "composite", "workflow"]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
OutputSize = Literal["source", "model"]
AlphaMode = Literal["keep", "grow"]
LayerCount: TypeAlias = "int | Literal['auto']"
KeepRest = Literal["off", "auto"]
ExportFormat = Literal["zip", "ora", "psd", "pptx", "webp", "jpg"]

ENDED: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class Progress:
    """Where a job is."""

    job_id: str
    state: State
    attempts: int
    """How often a worker has claimed the job."""
    stage: str | None
    """`fetch`, `decode`, `load`, `caption`, `text_encode`, `vae_encode`, `denoise`, `vae_decode`, `composite`,
    `encode_png` or `store`; `None` before the first stage."""
    step: int
    steps: int
    """The number of steps of this stage; 0 if it is not known."""
    seconds: float | None
    """How long the attempt has been running, if the server says so."""

    @property
    def ended(self) -> bool:
        """Whether the job has succeeded, failed or been cancelled."""
        return self.state in ENDED

    @property
    def fraction(self) -> float | None:
        """How much of the stage is done, from 0 to 1; `None` if it is not known."""
        return self.step / self.steps if self.steps else None

    def __str__(self) -> str:
        if self.state != "running" or self.stage is None:
            return self.state
        return f"{self.stage} {self.step} of {self.steps}" if self.steps else self.stage


@dataclass(frozen=True)
class Placement:
    """Where a trimmed layer belongs, in pixels."""

    x: int
    """The left edge of the layer on the canvas."""
    y: int
    """Its upper edge."""
    width: int
    """The width of the canvas, not of the layer."""
    height: int
    """The height of the canvas."""


@dataclass(frozen=True)
class Output:
    """A file of a job's result."""

    name: str
    role: str
    """`regenerated` (layer 0, the whole picture), `layer`, `edited_layer`, `edited`, `composite` or `contact_sheet`."""
    layer: int | None
    """The number of a layer: 1 is the rearmost."""
    width: int
    height: int
    size: int
    """Bytes."""
    sha256: str
    placement: Placement | None = None
    """Where a trimmed layer belongs; `None` if the file is the whole canvas."""
    layer_name: str | None = None
    """A few words for a layer; `None` for other files."""
    variant: int | None = None
    """The variant that it is of, from 1; `None` in results without variants."""
    seed: int | None = None
    """The seed of its variant."""


@dataclass(frozen=True)
class ErrorInfo:
    """Why a job, or its last attempt, failed."""

    code: str
    error_class: str
    """`invalid`, `transient`, `device` or `cancelled`."""
    message: str
    cause: str | None = None
    """The code of the last attempt's error, for `attempts_exhausted`."""


@dataclass(frozen=True)
class JobInfo:
    """A job as the server last showed it."""

    id: str
    kind: Kind
    state: State
    attempts: int
    priority: int
    batch: str | None
    labels: Mapping[str, str]
    params: Mapping[str, Any]
    progress: Progress
    error: ErrorInfo | None
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    updated_at: datetime
    finished_at: datetime | None
    outputs: tuple[Output, ...]
    """The files of the result; empty until the job has succeeded."""
    reused_from: str | None
    """The job whose result it took, so that nothing was computed."""
    data: Mapping[str, Any] = field(repr=False)
    """The server's whole answer."""

    @property
    def ended(self) -> bool:
        """Whether the job has succeeded, failed or been cancelled."""
        return self.state in ENDED

    def raise_unless_succeeded(self) -> None:
        """Raises the error of a job that failed or was cancelled."""
        if self.state == "cancelled":
            raise JobCancelled(self.id)
        if self.state == "failed":
            error = self.error or ErrorInfo("unknown", "invalid", "the server does not say why")
            raise JobFailed(self.id, error.code, error.error_class, error.message)

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> JobInfo:
        """Reads a job of the API."""
        error = data["error"]
        return cls(
            id=data["id"],
            kind=data["kind"],
            state=data["state"],
            attempts=data["attempts"],
            priority=data["priority"],
            batch=data["batch"],
            labels=data["labels"],
            params=data["params"],
            progress=progress_of(data),
            error=ErrorInfo(error["code"], error["class"], error["message"], error.get("cause")) if error else None,
            cancel_requested=data["cancel_requested"],
            created_at=parse_time(data["created_at"]),
            started_at=_maybe_time(data["started_at"]),
            updated_at=parse_time(data["updated_at"]),
            finished_at=_maybe_time(data["finished_at"]),
            outputs=tuple(
                Output(
                    name=one["name"],
                    role=one["role"],
                    layer=one["layer"],
                    width=one["width"],
                    height=one["height"],
                    size=one["size"],
                    sha256=one["sha256"],
                    placement=Placement(**one["placement"]) if one.get("placement") else None,
                    layer_name=one.get("layer_name"),
                    variant=one.get("variant"),
                    seed=one.get("seed"),
                )
                for one in data["outputs"]
            ),
            reused_from=data.get("reused_from"),
            data=data,
        )


@dataclass(frozen=True)
class BatchInfo:
    """The progress of a batch."""

    batch: str
    total: int
    states: Mapping[str, int]
    """The number of jobs in each state; states without jobs are missing."""
    ended: int
    created_at: datetime
    last_finished_at: datetime | None
    mean_seconds: float | None
    """The mean time from claim to end of the jobs that succeeded."""

    @property
    def fraction(self) -> float:
        """How much of the batch has ended, from 0 to 1."""
        return self.ended / self.total if self.total else 1.0

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in self.states.items())
        return f"{self.batch}: {self.ended} of {self.total} ended ({states})"

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> BatchInfo:
        """Reads a batch of the API."""
        return cls(
            batch=data["batch"],
            total=data["total"],
            states=data["states"],
            ended=data["ended"],
            created_at=parse_time(data["created_at"]),
            last_finished_at=_maybe_time(data["last_finished_at"]),
            mean_seconds=data["mean_seconds"],
        )


@dataclass(frozen=True)
class Model:
    """A model that the server uses."""

    id: str
    small: bool
    """Whether it is one of the small models that come with acetate, which only know drawings of simple shapes."""
    loaded: bool | None
    """Whether it is in memory; `None` if the server does not run jobs itself."""


@dataclass(frozen=True)
class Models:
    """The models that jobs run on."""

    decompose: Model
    edit: Model
    device: str

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Models:
        """Reads the answer of `/v1/models`."""

        def model(one: Mapping[str, Any]) -> Model:
            return Model(one["id"], one["small"], one["loaded"])

        return cls(model(data["decompose"]), model(data["edit"]), data["device"])


def progress_of(data: Mapping[str, Any]) -> Progress:
    """Reads the data of a `state` or a `progress` event."""
    progress = data["progress"] or {}
    return Progress(
        job_id=data["id"],
        state=data["state"],
        attempts=data["attempts"],
        stage=progress.get("stage"),
        step=progress.get("step", 0),
        steps=progress.get("steps", 0),
        seconds=data.get("seconds"),
    )


def parse_time(text: str) -> datetime:
    """Reads RFC 3339; Python 3.10 knows neither `Z` nor nanoseconds."""
    whole, dot, rest = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}{dot}{rest[:6].ljust(6, '0') if dot else ''}+00:00")


def _maybe_time(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text)
