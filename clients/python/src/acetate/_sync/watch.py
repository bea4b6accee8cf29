# Made by scripts/unasync.py from _async/watch.py. Change that file.

"""Follows a job: by its event stream, and by polling where streams do not work."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from typing import Any

from .._requests import remaining
from .._sse import EventParser, ServerEvent
from .._types import JobInfo, Progress, progress_of
from ..errors import ApiError, ConnectionFailed, Forbidden, NotFound, Unauthorized
from .backend import sleep
from .http import Http

# The server sends at least a comment every 15 seconds.
_SILENCE_SECONDS = 40.0
# A deadline that is nearer than this is watched by polling, because a stream may be silent until then.
_NEAR_SECONDS = 20.0
# So many streams in a row of which nothing arrives: a proxy holds them back, and the job is polled instead.
_SILENT_STREAMS = 2
_POLL_SECONDS = 1.0
_RECONNECT_SECONDS = 0.5


def watch(http: Http, job: str, deadline: float | None) -> Generator[Progress | JobInfo, None, None]:
    """Yields the job whenever its state changes, and its progress in between, until it has ended.

    It also ends at the deadline, with the job's last state.
    """
    events = _Events(http, job)
    silent = 0
    while True:
        if silent < _SILENT_STREAMS and remaining(deadline) > _NEAR_SECONDS:
            # A stream that breaks is no failure of the job: its state is read below, and the stream is opened again.
            with contextlib.suppress(ConnectionFailed):
                with contextlib.closing(events.until(deadline)) as seen:
                    for one in seen:
                        yield one
                        if isinstance(one, JobInfo) and one.ended:
                            return
            silent = 0 if events.heard else silent + 1
        info = JobInfo.parse(http.get(f"/v1/jobs/{job}"))
        yield info
        if info.ended or remaining(deadline) <= 0:
            return
        streams = silent < _SILENT_STREAMS and remaining(deadline) > _NEAR_SECONDS
        pause = _RECONNECT_SECONDS if streams else _POLL_SECONDS
        sleep(max(0.0, min(pause, remaining(deadline))))


class _Events:
    """The event stream of a job, the id of the last event, and whether the last connection brought anything."""

    def __init__(self, http: Http, job: str) -> None:
        self._http = http
        self._path = f"/v1/jobs/{job}/events"
        self.last_id: str | None = None
        self.heard = False

    def until(self, deadline: float | None) -> Generator[Progress | JobInfo, None, None]:
        """Yields the events of one connection; ends when the deadline is near."""
        headers = {"Accept": "text/event-stream"}
        if self.last_id is not None:
            headers["Last-Event-ID"] = self.last_id
        parser = EventParser()
        self.heard = False
        try:
            with self._http.stream("GET", self._path, headers=headers, read_timeout=_SILENCE_SECONDS) as response:
                for piece in response.iter_bytes():
                    self.heard = True
                    for event in parser.feed(piece):
                        self.last_id = event.id or self.last_id
                        parsed = _parse(event)
                        if parsed is not None:
                            yield parsed
                    if remaining(deadline) < _NEAR_SECONDS:
                        return
        except (NotFound, Unauthorized, Forbidden):
            raise
        except ApiError as error:
            raise ConnectionFailed(str(error)) from error


def _parse(event: ServerEvent) -> Progress | JobInfo | None:
    try:
        data: dict[str, Any] = json.loads(event.data)
        if event.event == "state":
            return JobInfo.parse(data)
        return progress_of(data) if event.event == "progress" else None
    except (ValueError, KeyError, TypeError) as error:
        raise ConnectionFailed(f"an event of the server could not be read: {error!r}") from error
