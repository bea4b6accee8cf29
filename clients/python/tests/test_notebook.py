"""Executes examples/python_client.ipynb."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from .servers import EXAMPLES, Server


def test_the_notebook_runs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    path = EXAMPLES / "python_client.ipynb"
    assert path.stat().st_size < 300_000
    notebook = nbformat.read(path, as_version=4)
    with Server(tmp_path_factory.mktemp("notebook"), {"qwen_image.num_inference_steps": "1"}) as server:
        monkeypatch.setenv("ACETATE_URL", server.url)
        monkeypatch.setenv("ACETATE_OUT", str(tmp_path_factory.mktemp("out")))
        NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    shown = [set(output["data"]) for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert any({"text/html", "image/png"} <= kinds for kinds in shown)
