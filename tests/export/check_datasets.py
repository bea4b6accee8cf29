#!/usr/bin/env python3
"""Loads what `acetate jobs export` wrote with the libraries that people use: Hugging Face's datasets, webdataset,
pandas and polars.

    cargo test --test it export   # writes the exports, target/tmp/export-datasets/ and export-varied/
    tests/export/run.sh

The readers are installed by check.py, into a virtual environment under target/.
"""

import io
import json
import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import pandas  # noqa: E402
import polars  # noqa: E402
import webdataset  # noqa: E402
from PIL import Image  # noqa: E402


def picture(url):
    return np.asarray(Image.open(url.removeprefix("file://")).convert("RGBA"))


def same(what, got, url):
    assert isinstance(got, Image.Image), f"{what} is no picture: {type(got)}"
    assert np.array_equal(np.asarray(got.convert("RGBA")), picture(url)), f"{what} differs from {url}"


def check_rows(what, rows, wanted):
    """Rows as datasets gives them, against the lines of `acetate jobs results`."""
    assert len(rows) == len(wanted), f"{what}: {len(rows)} rows, not {len(wanted)}"
    for got, want in zip(rows, wanted):
        place = f"{what}, row {want['row']}"
        for name in ("row", "id", "prompt", "seed"):
            assert got[name] == want[name], f"{place}: {name} is {got[name]!r}, not {want[name]!r}"
        assert list(got["input"]) == want["input"], f"{place}: input is {got['input']!r}"
        for name, value in want["meta"].items():
            got_value = got[{"caption": "caption_", "row": "row_"}.get(name, name)]
            if isinstance(got_value, str) and isinstance(value, (list, dict)):
                got_value = json.loads(got_value)  # Parquet has the text of their JSON.
            assert got_value == value, f"{place}: {name} is {got_value!r}, not {value!r}"
        same(f"{place}: regenerated", got["regenerated"], want["regenerated"])
        assert len(got["layers"]) == len(want["layers"]) == 2, place
        for layer, url in zip(got["layers"], want["layers"]):
            same(f"{place}: a layer", layer, url)


def check_imagefolder(folder, wanted, cache):
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=cache)
    assert isinstance(rows.features["layers"].feature, datasets.Image), rows.features
    check_rows("imagefolder", list(rows), wanted)


def check_parquet(folder, wanted, cache):
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=cache)
    assert isinstance(rows.features["regenerated"], datasets.Image), rows.features
    assert isinstance(rows.features["layers"].feature, datasets.Image), rows.features
    check_rows("parquet", list(rows), wanted)
    stream = datasets.load_dataset(str(folder), split="train", streaming=True)
    check_rows("parquet, streamed", list(stream), wanted)

    frame = pandas.read_parquet(folder)
    assert list(frame["row"]) == [row["row"] for row in wanted], frame["row"]
    assert frame["width"].dtype == np.int64 and frame["score"].dtype == np.float64, frame.dtypes
    same("pandas", Image.open(io.BytesIO(frame["layers"][0][1]["bytes"])), wanted[0]["layers"][1])
    assert frame["layers"][0][1]["path"] == "000001.layer_02.png"
    table = polars.read_parquet(folder / "*.parquet")
    assert table.schema["width"] == polars.Int64 and table.schema["is_train"] == polars.Boolean, table.schema
    assert table["caption_"].to_list() == [row["meta"].get("caption") for row in wanted]
    same("polars", Image.open(io.BytesIO(table["regenerated"][2]["bytes"])), wanted[2]["regenerated"])


def check_webdataset(folder, wanted, cache):
    shards = sorted(str(path) for path in folder.glob("*.tar"))
    rows = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [row["__key__"] for row in rows] == [f"{row['row']:06}" for row in wanted], rows
    for got, want in zip(rows, wanted):
        # webdataset decodes to RGB; the bytes have the alpha.
        assert isinstance(got["layer_01.png"], Image.Image) and isinstance(got["regenerated.png"], Image.Image)
        assert got["json"]["id"] == want["id"] and got["json"]["width"] == want["meta"]["width"], got["json"]
    raw = list(webdataset.WebDataset(shards, shardshuffle=False))
    for got, want in zip(raw, wanted):
        for index, url in enumerate(want["layers"]):
            same("webdataset", Image.open(io.BytesIO(got[f"layer_{index + 1:02}.png"])), url)
    loaded = datasets.load_dataset("webdataset", data_files=shards, split="train", cache_dir=cache)
    assert [row["__key__"] for row in loaded] == [row["__key__"] for row in rows]
    same("datasets, webdataset", loaded[1]["layer_02.png"], wanted[1]["layers"][1])


def check_jsonl(folder, wanted, cache):
    lines = sorted(folder.glob("*.jsonl"))
    frame = pandas.concat(pandas.read_json(path, lines=True) for path in lines)
    assert list(frame["id"]) == [row["id"] for row in wanted]
    table = polars.concat([polars.read_ndjson(path) for path in lines], how="diagonal_relaxed")
    for got, want in zip(table["layers"], wanted):
        # The pictures were copied under names that end with those of the originals.
        assert len(got) == len(want["layers"]), got
        for url, copy in zip(got, want["layers"]):
            assert copy.endswith("-".join(url.split("/")[-3:])), (url, copy)
    rows = datasets.load_dataset("json", data_files=[str(path) for path in lines], split="train", cache_dir=cache)
    assert rows["width"][:] == [row["meta"]["width"] for row in wanted]


def check_varied(folder, cache):
    """Rows that differ: columns that begin without values, more layers in later rows, variants, other kinds of jobs."""
    fields = {
        "imagefolder": lambda row: row,
        "parquet": lambda row: row,
        "webdataset": lambda row: row["json"],
        "jsonl": lambda row: row,
    }
    for name, record in fields.items():
        rows = list(datasets.load_dataset(str(folder / name), split="train", cache_dir=cache))
        assert [record(row)["row"] for row in rows[:8]] == [1, 2, 3, 4, 5, 6, 7, 7], name
        assert len(rows) == 10, f"{name}: {len(rows)} rows"
        assert [record(row)["note"] for row in rows[:8]] == [None] * 6 + ["late"] * 2, name
        assert [record(row)["variant"] for row in rows[5:8]] == [1, 1, 2], name
        assert record(rows[0])["reused_from"] and not record(rows[1])["reused_from"], name
        nested = [row for row in map(record, rows) if row["from_job"]]
        assert [row["input"] for row in nested] == [[f"job:{row['from_job']}:{row['from_layer']}"] for row in nested], name
        assert len(nested) == 1 and nested[0]["from_variant"] == 1 and nested[0]["kind"] == "decompose", name
        if name == "webdataset":
            count = sum(isinstance(value, Image.Image) for row in rows for value in row.values())
        elif name == "jsonl":
            count = sum(len(row["layers"]) + bool(row["regenerated"]) + bool(row["composite"]) for row in rows)
        else:
            pictures = [[*row["layers"], row["regenerated"], row["composite"]] for row in rows]
            count = sum(isinstance(value, Image.Image) for row in pictures for value in row)
        assert count == 6 * 3 + 2 * 4 + 3 + 1, f"{name}: {count} pictures"
        print(f"ok       export {name} of rows that differ, loaded by datasets")


def main():
    folder = Path(sys.argv[1])
    results = folder / "results.json"
    assert results.exists(), f"no exports in {folder}; run `cargo test --test it batch_export` first"
    wanted = [row for row in json.loads(results.read_text()) if row["status"] == "succeeded"]
    cache = str(folder / "cache")
    for check in (check_imagefolder, check_parquet, check_webdataset, check_jsonl):
        name = check.__name__.removeprefix("check_")
        check(folder / name, wanted, cache)
        print(f"ok       export {name}: {len(wanted)} rows, loaded by other programs")
    check_varied(folder.parent / "export-varied", cache)


main()
