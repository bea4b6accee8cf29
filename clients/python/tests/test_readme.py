"""Runs the snippets of README.md, in their order."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from .servers import EXAMPLES, Server

README = Path(__file__).parents[1] / "README.md"


def test_the_snippets_work(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path_factory.mktemp("readme")
    for name in ("scene.png", "house.png"):
        shutil.copy(EXAMPLES / name, folder / name)
        (folder / "posters").mkdir(exist_ok=True)
        shutil.copy(EXAMPLES / name, folder / "posters" / name)
    monkeypatch.chdir(folder)
    snippets = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(snippets) == 10
    with Server(tmp_path_factory.mktemp("server"), {"qwen_image.num_inference_steps": "1"}) as server:
        namespace: dict[str, object] = {}
        for snippet in snippets:
            exec(compile(snippet.replace("http://127.0.0.1:8080", server.url), "README.md", "exec"), namespace)
    for name in ("new.png", "whole.png", "workflow.png", "scene.psd", "out/scene/manifest.json"):
        assert (folder / name).stat().st_size > 0
    assert len(list((folder / "out").glob("*/manifest.json"))) == 3
