"""The servers of the tests. They are real: `ACETATE_BIN` names the program."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from acetate import Client, Layers

from .servers import EXAMPLES, Proxy, Server, proxied

TOKEN = "a-token-for-the-tests-0123456789"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that runs jobs with the small models."""
    settings = {"store.inputs": f"file://{EXAMPLES}"}
    with Server(tmp_path_factory.mktemp("server"), settings) as running:
        yield running


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Server]:
    """A server that runs no jobs, so that they stay queued."""
    with Server(tmp_path, work=False) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of the server that runs jobs."""
    with Client(server.url) as made:
        yield made


@pytest.fixture
def idle_client(idle: Server) -> Iterator[Client]:
    """A client of the server that runs no jobs."""
    with Client(idle.url) as made:
        yield made


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the server that runs jobs."""
    with proxied(server) as made:
        yield made


@pytest.fixture(scope="session")
def layers(server: Server) -> Layers:
    """The layers of one decompose, for all tests that only read them."""
    with Client(server.url) as made:
        return made.decompose(EXAMPLES / "scene.png", layers=3, steps=2, seed=7)


@pytest.fixture
def picture() -> Image.Image:
    """A small picture with every kind of transparency."""
    image = Image.new("RGBA", (40, 24), (0, 0, 0, 0))
    image.paste((200, 30, 60, 255), (4, 2, 20, 12))
    image.paste((20, 90, 220, 128), (12, 8, 36, 20))
    return image
