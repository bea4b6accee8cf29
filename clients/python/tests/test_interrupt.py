"""Ctrl-C, in a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time

import pytest

from acetate import Client

from .servers import EXAMPLES, Server, proxied, until

# A shell starts programs in the background with SIGINT ignored.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from acetate import Client

url, picture, cancel = sys.argv[1:]
Client(url).decompose(picture, timeout=60, cancel_on_interrupt=cancel == "cancel")
"""


@pytest.mark.parametrize("wanted", ["go on", "cancel"])
def test_ctrl_c_leaves_the_job_or_cancels_it(idle: Server, wanted: str) -> None:
    with proxied(idle) as proxy:
        command = [sys.executable, "-c", PROGRAM, proxy.url, str(EXAMPLES / "house.png"), wanted]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        until(lambda: any("/events" in head for head in proxy.heads))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    (job,) = Client(idle.url).jobs()
    assert job.state == ("cancelled" if wanted == "cancel" else "queued")
    # Like any program that Ctrl-C ends; the exception says what became of the job.
    assert process.returncode in (-signal.SIGINT, 130)
    line = said.strip().splitlines()[-1]
    assert re.search(rf"KeyboardInterrupt: job {job.id} (was cancelled|goes on)", line)


def test_ctrl_c_ends_a_batch_that_waits_for_the_queue(tmp_path_factory: pytest.TempPathFactory) -> None:
    program = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from PIL import Image
from acetate import Client

rows = (Image.new("RGB", (8, 8), (n, n, n)) for n in range(50))
Client(sys.argv[1]).batch("full", rows, kind="composite")
"""
    folder = tmp_path_factory.mktemp("full")
    with Server(folder, {"http.max_queued": "3"}, work=False) as full, proxied(full) as proxy:
        process = subprocess.Popen([sys.executable, "-c", program, proxy.url], stderr=subprocess.PIPE, text=True)
        until(lambda: len(proxy.requests("POST /v1/jobs ")) >= 8)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert time.monotonic() - start < 25
        assert "the same call goes on" in said
