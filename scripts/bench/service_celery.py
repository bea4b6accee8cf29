"""The composite job as a Celery task: RabbitMQ brings it, a row in Postgres says how it is, S3 holds the pictures.

It promises about what acetate does for such a job: a durable message on a quorum queue, acknowledged late; a row that is
claimed and finished; a picture and a manifest with SHA-256, both verified in the store before the row says `succeeded`.
"""

import base64
import hashlib
import io
import json
import os

import boto3
import psycopg
from botocore.config import Config
from celery import Celery
from celery.signals import worker_process_init
from kombu import Queue
from PIL import Image

TABLE = """
CREATE TABLE jobs (id TEXT PRIMARY KEY, request TEXT NOT NULL, state TEXT NOT NULL, attempts INT NOT NULL DEFAULT 0,
                   worker TEXT, manifest TEXT, outputs TEXT, created_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
                   started_at TIMESTAMPTZ, finished_at TIMESTAMPTZ)
"""
BUCKET = "results"
# Pillow's own default unless it is told otherwise.
COMPRESSION = int(os.environ.get("BENCH_PNG_COMPRESSION", "6"))

app = Celery("bench", broker=os.environ["BENCH_AMQP_URL"])
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_queues=[Queue("celery.composite", routing_key="composite", queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue="celery.composite",
    task_default_exchange="celery",
    task_default_routing_key="composite",
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True},
)


def s3_client():
    return boto3.client("s3", endpoint_url=os.environ["BENCH_S3_ENDPOINT"],
                        config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}))  # fmt: skip


def database():
    return psycopg.connect(os.environ["BENCH_POSTGRES_URL"], autocommit=True)


class Connections:
    """Of one process of the pool."""

    def __init__(self):
        self.s3, self.database = s3_client(), database()


connections: Connections | None = None


@worker_process_init.connect
def connect(**_):
    global connections
    connections = Connections()


@app.task(name="composite")
def composite(job: str, request: dict) -> None:
    database, worker = connections.database, f"{os.uname().nodename}:{os.getpid()}"
    claimed = database.execute(
        "UPDATE jobs SET state = 'running', worker = %s, attempts = attempts + 1, started_at = clock_timestamp()"
        " WHERE id = %s AND state = 'queued' RETURNING attempts", (worker, job)).fetchone()  # fmt: skip
    if claimed is None:
        return
    layers = [picture(url) for url in request["input"]["images"]]
    whole = layers[0]
    for layer in layers[1:]:
        whole = Image.alpha_composite(whole, layer)
    encoded = io.BytesIO()
    whole.save(encoded, "PNG", compress_level=COMPRESSION)
    folder = f"{request['output']['prefix'].removeprefix(f's3://{BUCKET}/')}{job}/{claimed[0]}"
    file = {"name": "composite.png", "role": "composite", "width": whole.width, "height": whole.height,
            **put(f"{folder}/composite.png", encoded.getvalue())}  # fmt: skip
    manifest = {"version": 1, "job": job, "attempt": claimed[0], "request": request, "files": [file]}
    key = f"{folder}/manifest.json"
    put(key, json.dumps(manifest, indent=2).encode())
    database.execute(
        "UPDATE jobs SET state = 'succeeded', manifest = %s, outputs = %s, finished_at = clock_timestamp()"
        " WHERE id = %s AND state = 'running' AND worker = %s", (key, json.dumps([file]), job, worker))  # fmt: skip


def picture(url: str) -> Image.Image:
    bucket, key = url.removeprefix("s3://").split("/", 1)
    body = connections.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    return Image.open(io.BytesIO(body)).convert("RGBA")


def put(key: str, body: bytes) -> dict:
    """Writes an object and looks at it there."""
    digest = hashlib.sha256(body)
    checksum = base64.b64encode(digest.digest()).decode()
    connections.s3.put_object(Bucket=BUCKET, Key=key, Body=body, ChecksumSHA256=checksum)
    there = connections.s3.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")
    if there["ContentLength"] != len(body) or there.get("ChecksumSHA256", checksum) != checksum:
        raise RuntimeError(f"{key} is not what was written")
    return {"size": len(body), "sha256": digest.hexdigest()}


def submit(requests: str) -> None:
    """A row and a confirmed message for each line of a file of requests."""
    with database() as rows, app.producer_pool.acquire() as producer:
        rows.execute(TABLE)
        for line in open(requests):
            request = json.loads(line)
            rows.execute("INSERT INTO jobs (id, request, state) VALUES (%s, %s, 'queued')", (request["id"], line))
            app.send_task("composite", (request["id"], request), producer=producer, delivery_mode=2)


if __name__ == "__main__":
    submit(os.environ["BENCH_REQUESTS"])
