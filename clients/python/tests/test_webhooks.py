"""Signatures of webhooks: the specification's example, and a real server's."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from acetate import Client, InvalidSignature, webhooks

from .servers import Server, program, until

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another secret of 32 bytes length").decode()
BODY = json.dumps(
    {"event": "job.succeeded", "id": "018f", "kind": "edit", "state": "succeeded", "batch": None, "labels": {}}
)


def headers(body: str = BODY, secret: str = SECRET, at: float | None = None) -> dict[str, str]:
    """The headers of a webhook."""
    stamp = str(int(time.time() if at is None else at))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"msg_1.{stamp}.{body}".encode(), hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return {"Webhook-Id": "msg_1", "Webhook-Timestamp": stamp, "Webhook-Signature": signature}


def test_a_signature_of_the_specification_is_right() -> None:
    """The example is no event of a job, so the signature is right and the body is refused."""
    given = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    with pytest.raises(InvalidSignature, match="the body is signed, but"):
        webhooks.verify(given, '{"test": 2432232314}', SECRET, now=1614265330)


def test_an_event_is_returned() -> None:
    event = webhooks.verify(headers(), BODY.encode(), SECRET)
    assert isinstance(event, webhooks.Event)
    assert (event.webhook_id, event.event, event.job_id, event.state) == ("msg_1", "job.succeeded", "018f", "succeeded")


def test_the_end_of_a_batch_is_an_event() -> None:
    """The example of docs/api.md."""
    body = json.dumps(
        {"version": 1, "event": "batch.ended", "batch": "posters", "jobs": 1200, "succeeded": 1190, "failed": 10}
        | {"cancelled": 0, "errors": {"invalid_image": 10}, "time": "2026-11-28T12:00:00Z"}
    )
    event = webhooks.verify(headers(body), body, SECRET)
    assert isinstance(event, webhooks.BatchEvent)
    assert (event.webhook_id, event.event, event.batch, event.jobs) == ("msg_1", "batch.ended", "posters", 1200)
    assert (event.succeeded, event.failed, event.cancelled, event.errors) == (1190, 10, 0, {"invalid_image": 10})
    assert event.time == event.data["time"]


@pytest.mark.parametrize(
    ("given", "body", "reason"),
    [
        (headers(), BODY + " ", "no signature"),
        (headers(secret=OTHER), BODY, "no signature"),
        ({**headers(), "Webhook-Id": "msg_2"}, BODY, "no signature"),
        ({**headers(), "Webhook-Signature": "v1,"}, BODY, "no signature"),
        ({**headers(), "Webhook-Signature": "v1a," + headers()["Webhook-Signature"][3:]}, BODY, "no signature"),
        ({**headers(), "Webhook-Signature": "v1,%%% \N{SNOWMAN}"}, BODY, "no signature"),
        (headers(at=time.time() - 400), BODY, "more than 300 s from now"),
        (headers(at=time.time() + 40_000), BODY, "more than 300 s from now"),
        ({**headers(), "Webhook-Timestamp": "soon"}, BODY, "not a number"),
        ({name: text for name, text in headers().items() if name != "Webhook-Id"}, BODY, "webhook-id is missing"),
    ],
)
def test_anything_else_is_refused(given: Mapping[str, str], body: str, reason: str) -> None:
    with pytest.raises(InvalidSignature, match=reason):
        webhooks.verify(given, body, SECRET)


def test_a_secret_can_be_changed_while_both_are_used() -> None:
    assert webhooks.verify(headers(secret=OTHER), BODY, [SECRET, OTHER]).event == "job.succeeded"
    both = {**headers(), "Webhook-Signature": f"v1,AAAA {headers()['Webhook-Signature']}"}
    assert webhooks.verify(both, BODY, SECRET).event == "job.succeeded"


@pytest.mark.parametrize("secret", ["", "plain", "whsec_", "whsec_%%%"])
def test_a_secret_that_is_none_is_an_error_of_the_caller(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and base64"):
        webhooks.verify(headers(), BODY, secret)


def test_webhooks_of_a_real_server(tmp_path: Path, picture: Image.Image) -> None:
    calls: dict[str, tuple[dict[str, str], bytes]] = {}

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            calls[self.path] = dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    (tmp_path / "in").mkdir()
    picture.save(tmp_path / "in" / "a.png")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{receiver.server_port}"
        settings = {"http.webhook_secret": SECRET, "http.webhook_allow": origin}
        with Server(tmp_path, settings) as server, Client(server.url) as client:
            job = client.submit("composite", [picture], webhook=f"{origin}/job", labels={"a": "b"}).wait()
            submit = [program(), "submit", "composite", "--from", "in", "--batch", "b", "--output", "{stem}"]
            values = {"DATA_DIR": str(tmp_path / "data"), "HTTP__WEBHOOK_SECRET": SECRET, "HTTP__WEBHOOK_ALLOW": origin}
            environment = os.environ | {f"ACETATE__{name}": text for name, text in values.items()}
            subprocess.run([*submit, "--batch-webhook", f"{origin}/batch"], check=True, cwd=tmp_path, env=environment)
            until(lambda: len(calls) == 2)
        receiver.shutdown()
    event = webhooks.verify(*calls["/job"], SECRET)
    assert isinstance(event, webhooks.Event)
    assert (event.job_id, event.event, event.labels) == (job.id, "job.succeeded", {"a": "b"})
    ended = webhooks.verify(*calls["/batch"], SECRET)
    assert isinstance(ended, webhooks.BatchEvent)
    assert (ended.event, ended.batch, ended.jobs, ended.succeeded) == ("batch.ended", "b", 1, 1)
    with pytest.raises(InvalidSignature):
        webhooks.verify(*calls["/job"], OTHER)
