"""Uses OpenAI's client, as its users do, against servers of its own."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import openai
from openai import OpenAI
from PIL import Image

program, picture = sys.argv[1:]
TOKEN = "a-token-that-is-long-enough"


@contextmanager
def server(**settings: str) -> Iterator[str]:
    """The address of a new server."""
    with tempfile.TemporaryDirectory() as folder:
        named = {f"ACETATE__{name}": value for name, value in settings.items()}
        environment = {**os.environ, "ACETATE__DATA_DIR": folder, "HF_HUB_OFFLINE": "1", **named}
        process = subprocess.Popen(
            [program, "--quiet", "serve", "--bind", "127.0.0.1:0"], env=environment, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout
            said = process.stdout.readline()
            found = re.search(r"http://[^/]+/", said)
            assert found, said
            yield found.group(0)
        finally:
            process.terminate()
            process.wait()


def refused(error: type[openai.APIStatusError], work: object) -> openai.APIStatusError:
    """The error of a request, which is of a class."""
    assert callable(work)
    try:
        work()
    except error as raised:
        return raised
    raise AssertionError(f"no {error.__name__}")


def png(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


with Image.open(picture) as opened:
    source = opened.convert("RGBA")
cutout = source.copy()
cutout.paste((0, 0, 0, 0), (0, 0, source.width // 2, source.height))
buffer = io.BytesIO()
cutout.save(buffer, "PNG")
cut = buffer.getvalue()

with server(HTTP__TOKEN=TOKEN) as url:
    client = OpenAI(base_url=f"{url}v1", api_key=TOKEN)
    quick = {"steps": "1", "seed": "7"}

    # One picture, as base64.
    with open(picture, "rb") as image:
        answer = client.images.edit(image=image, prompt="Make it green", model="gpt-image-2", extra_body=quick)
    assert answer.data and len(answer.data) == 1 and answer.data[0].b64_json
    assert png(base64.b64decode(answer.data[0].b64_json)).size == source.size
    assert answer.size == f"{source.width}x{source.height}" and answer.output_format == "png"
    assert answer.created > 1_700_000_000

    # Two, by address, of half the size, from two pictures.
    half = (source.width // 2, source.height // 2)
    answer = client.images.edit(
        image=[open(picture, "rb"), ("cut.png", cut, "image/png")],
        prompt="Make it red",
        n=2,
        size=f"{half[0]}x{half[1]}",
        response_format="url",
        background="transparent",
        extra_body=quick,
    )
    assert answer.data and len(answer.data) == 2 and answer.background == "transparent"
    made = []
    for item in answer.data:
        assert item.url and item.url.startswith(url) and item.b64_json is None
        request = urllib.request.Request(item.url, headers={"Authorization": f"Bearer {TOKEN}"})
        made.append(png(urllib.request.urlopen(request).read()))
    assert all(image.size == half for image in made)
    assert made[0].getpixel((1, 1))[3] == 0 and made[0].getpixel((half[0] - 2, 1))[3] == 255  # type: ignore[index]
    assert made[0].tobytes() != made[1].tobytes(), "each has another seed"

    # A mask: the transparent half may change, the other is the source's.
    answer = client.images.edit(image=open(picture, "rb"), mask=cut, prompt="Make it green", extra_body=quick)
    assert answer.data and answer.data[0].b64_json
    masked, kept = png(base64.b64decode(answer.data[0].b64_json)), (half[0], 0, *source.size)
    assert masked.crop(kept).tobytes() == source.crop(kept).tobytes()
    assert masked.tobytes() != source.tobytes()

    # Without transparency.
    answer = client.images.edit(image=cut, prompt="Make it red", background="opaque", extra_body=quick)
    assert answer.data and answer.data[0].b64_json
    assert png(base64.b64decode(answer.data[0].b64_json)).getchannel("A").getextrema() == (255, 255)

    # What it cannot do has the name of the parameter, and says what to do instead.
    def edit(**more: object) -> object:
        return lambda: client.images.edit(image=open(picture, "rb"), prompt="x", **more)  # type: ignore[call-overload]

    for more, param, code, says in [
        ({"stream": True}, "stream", "unsupported_parameter", "events"),
        ({"output_format": "webp"}, "output_format", "unsupported_parameter", "png"),
        ({"background": "transparent"}, "background", "invalid_request", "decompose"),
        ({"size": "64x1024"}, "size", "invalid_request", "shape"),
        ({"size": "large"}, "size", "invalid_request", "1024x1024"),
        ({"n": 11}, "n", "invalid_request", "1 to 10"),
        ({"extra_body": {"steps": "0"}}, "steps", "invalid_request", "1 and 1000"),
        ({"extra_body": {"paint": "x"}}, "paint", "unknown_parameter", "image, mask, prompt"),
    ]:
        error = refused(openai.BadRequestError, edit(**more))
        assert (error.param, error.code, error.type) == (param, code, "invalid_request_error"), (more, error.body)
        assert says in error.message, error.message
    error = refused(openai.BadRequestError, lambda: client.images.edit(image=b"<html>", prompt="x"))
    assert error.code == "invalid_image", error.body
    error = refused(openai.BadRequestError, lambda: client.images.edit(image=cut, prompt=" "))
    assert (error.param, error.code) == ("prompt", "invalid_request"), error.body
    wrong = OpenAI(base_url=f"{url}v1", api_key="wrong")
    error = refused(openai.AuthenticationError, lambda: wrong.images.edit(image=cut, prompt="x"))
    assert error.code == "invalid_api_key", error.body
    error = refused(openai.NotFoundError, lambda: client.images.generate(prompt="x"))
    assert error.code == "not_found" and error.message, error.body

with server(HTTP__WAIT_SECONDS="0.5") as url:
    client = OpenAI(base_url=f"{url}v1", api_key="none needed")
    error = refused(
        openai.InternalServerError, lambda: client.images.edit(image=cut, prompt="x", extra_body={"steps": "1000"})
    )
    assert error.status_code == 504 and error.code == "too_slow" and "/v1/jobs/" in error.message, error.body
    # It was not sent again.
    listed = urllib.request.urlopen(f"{url}v1/jobs").read().decode()
    assert listed.count('"kind":"edit"') == 1, listed

print("edits, and errors by their names")
