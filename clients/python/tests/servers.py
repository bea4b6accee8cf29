"""Starts real servers, and a proxy in front of one that breaks connections."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
START_SECONDS = 60.0


def program() -> str:
    """The program of the server."""
    path = os.environ.get("ACETATE_BIN")
    if not path:
        raise RuntimeError("set ACETATE_BIN to the acetate program; the tests run a real server")
    return path


class Server:
    """`acetate serve` with its own folder, SQLite and the small models."""

    def __init__(
        self, folder: Path, settings: Mapping[str, str] | None = None, *, work: bool = True, port: int = 0
    ) -> None:
        self._log = (folder / "server.log").open("a")
        names = {f"ACETATE__{name.upper().replace('.', '__')}": text for name, text in (settings or {}).items()}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACETATE__")}
        environment |= {"ACETATE__DATA_DIR": str(folder / "data"), **names}
        command = [program(), "--quiet", "serve", "--bind", f"127.0.0.1:{port}", "--work", str(work).lower()]
        self._process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.url = self._address(folder)

    def _address(self, folder: Path) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.search(r"http://[^/\s]+", line)
        if found is None:
            raise RuntimeError(f"the server did not start: {line}{(folder / 'server.log').read_text()}")
        return found[0]

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        """Stops it as Ctrl-C does."""
        self._process.terminate()
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Proxy:
    """Passes connections on to a server, records their requests, and breaks those that a rule chooses.

    `rule` gets the head of a request and says how much of the response arrives: so many bytes, or everything up to some
    bytes; `None` is all of it. With 0, the server has handled the request, and its reply is lost.
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self.rule: Callable[[str], int | bytes | None] = lambda head: None
        self.change: Callable[[bytes], bytes] = lambda piece: piece
        """What becomes of each piece of a response."""
        self.heads: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def requests(self, start: str) -> list[str]:
        """The heads of the requests that begin like this, for instance `POST /v1/jobs`."""
        return [head for head in self.heads if head.startswith(start)]

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                piece = client.recv(65536)
                if not piece:
                    return
                data += piece
            head, _, rest = data.partition(b"\r\n\r\n")
            text = head.decode()
            self.heads.append(text)
            limit = self.rule(text)
            with socket.create_connection(("127.0.0.1", self._upstream)) as server:
                # One request per connection.
                server.sendall(head + b"\r\nConnection: close\r\n\r\n" + rest)
                threading.Thread(target=_pump, args=(client, server), daemon=True).start()
                self._reply(server, client, limit)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _reply(self, server: socket.socket, client: socket.socket, limit: int | bytes | None) -> None:
        arrived = b""
        while piece := self.change(server.recv(65536)):
            if limit is None:
                client.sendall(piece)
                continue
            sent, arrived = len(arrived), arrived + piece
            found = arrived.find(limit) if isinstance(limit, bytes) else -1
            end = limit if isinstance(limit, int) else found + len(limit) if found >= 0 else len(arrived)
            client.sendall(arrived[sent:end])
            if found >= 0 or (isinstance(limit, int) and len(arrived) > limit > 0):
                return


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)


def once(match: Callable[[str], bool], limit: int | bytes) -> Callable[[str], int | bytes | None]:
    """A rule that breaks the first request that matches."""
    left = [True]

    def rule(head: str) -> int | bytes | None:
        if left[0] and match(head):
            left[0] = False
            return limit
        return None

    return rule


@contextlib.contextmanager
def proxied(server: Server) -> Iterator[Proxy]:
    """A proxy in front of a server."""
    with Proxy(server.port) as proxy:
        yield proxy


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Waits for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
