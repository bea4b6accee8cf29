# Made by scripts/unasync.py from _async/http.py. Change that file.

"""Requests to the server: sent again where that is safe, with errors as exceptions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from .._plain import plain
from .._requests import Submission
from .._retry import Backoff, may_repeat, never_sent
from .._version import VERSION
from ..errors import ApiError, ConnectionFailed, from_response
from .backend import HttpClient, Stop, sleep


class Http:
    """Sends requests to one server."""

    def __init__(
        self, url: str, token: str | None, timeout: float, retry_seconds: float, client: HttpClient | None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is not the address of a server, for instance http://127.0.0.1:8080")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.retry_seconds = retry_seconds
        self._headers = {"User-Agent": f"acetate-python/{VERSION}"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._client = client or HttpClient(timeout=timeout)
        self._is_own = client is None

    def close(self) -> None:
        """Closes the connections, unless they belong to the caller's httpx client."""
        if self._is_own:
            self._client.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Reads JSON."""
        return (self.send("GET", path, params=params)).json()

    def post(self, path: str, body: Any = None, *, idempotent: bool) -> Any:
        """Sends JSON and reads JSON."""
        arguments = {} if body is None else {"json": plain(body)}
        return (self.send("POST", path, idempotent=idempotent, **arguments)).json()

    def submit(self, submission: Submission, stop: Stop | None = None) -> tuple[bool, Any]:
        """Submits a job. Returns whether it is a new one, and the job. `stop` ends the pauses between attempts."""
        stop = stop or Stop()
        backoff = Backoff(self.retry_seconds)
        while True:
            with submission.content() as content:
                answer = self._attempt("POST", "/v1/jobs", True, headers=submission.headers, **content)
            if isinstance(answer, httpx.Response):
                return answer.status_code == 202, answer.json()
            stop.sleep(backoff.pause(answer))

    def send(self, method: str, path: str, *, idempotent: bool = True, **arguments: Any) -> httpx.Response:
        """Sends a request and returns the response of a success."""
        backoff = Backoff(self.retry_seconds)
        while True:
            answer = self._attempt(method, path, idempotent, **arguments)
            if isinstance(answer, httpx.Response):
                return answer
            sleep(backoff.pause(answer))

    def download(self, path: str, to: Path) -> None:
        """Writes a file, complete or not at all. A download that breaks is resumed where it broke."""
        part = to.with_name(to.name + ".part")
        backoff = Backoff(self.retry_seconds)
        tag = ""
        try:
            with part.open("wb") as file:
                while True:
                    headers = {"Range": f"bytes={file.tell()}-", "If-Range": tag} if tag and file.tell() else {}
                    try:
                        with self.stream("GET", path, headers=headers) as response:
                            if response.status_code != 206:
                                file.seek(0)
                                file.truncate()
                            tag = response.headers.get("etag", "")
                            for piece in response.iter_raw():
                                file.write(piece)
                        break
                    except ConnectionFailed as failure:
                        sleep(backoff.pause(failure))
                    except ApiError as failure:
                        if not may_repeat(failure, idempotent=True):
                            raise
                        sleep(backoff.pause(failure))
            part.replace(to)
        finally:
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def stream(
        self, method: str, path: str, *, headers: Mapping[str, str], read_timeout: float | None = None
    ) -> Iterator[httpx.Response]:
        """Opens a response whose body is read as it arrives."""
        timeout = httpx.Timeout(self.timeout, read=read_timeout or self.timeout)
        sent = {**self._headers, "Accept-Encoding": "identity", **headers}
        try:
            with self._client.stream(method, self.url + path, headers=sent, timeout=timeout) as response:
                if not response.is_success:
                    raise from_response(response.status_code, response.headers, response.read())
                yield response
        except httpx.TransportError as error:
            raise self._failed(error) from error

    def _attempt(
        self, method: str, path: str, idempotent: bool, headers: Mapping[str, str] | None = None, **arguments: Any
    ) -> httpx.Response | ApiError | ConnectionFailed:
        """Sends a request once. Returns a failure if it may be sent again, and raises any other."""
        sent = {**self._headers, **(headers or {})}
        try:
            response = self._client.request(method, self.url + path, headers=sent, timeout=self.timeout, **arguments)
        except httpx.TransportError as error:
            if not (idempotent or never_sent(error)) or isinstance(error, httpx.UnsupportedProtocol):
                raise self._failed(error) from error
            return self._failed(error)
        if response.is_success:
            return response
        failure = from_response(response.status_code, response.headers, response.content)
        if not may_repeat(failure, idempotent=idempotent):
            raise failure
        return failure

    def _failed(self, error: httpx.TransportError) -> ConnectionFailed:
        reason = str(error) or type(error).__name__
        failed = ConnectionFailed(f"{self.url}: {reason}; check the address, and that the server runs")
        failed.__cause__ = error
        return failed


def segment(name: str) -> str:
    """A name as a part of a path."""
    return quote(name, safe="")
