"""Encodes scenes for distill.py, which then needs nothing but torch and safetensors: condition latents, and prompt states.

    python train.py import --state STATE --models ../../models
    python distill_data.py layered|edit --state STATE --out DATA --count 2048

Targets are not stored, because the teacher makes them. Files are below 16 MB each.
"""

import argparse
from pathlib import Path

import torch
from common import CONFIG, SHARD_BYTES, device_of
from flow import Source
from safetensors.torch import save_file

SEED = 515_151


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["layered", "edit"])
    parser.add_argument("--state", type=Path, required=True, help="made by `train.py import`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=128, help="scenes at a time")
    chosen = parser.parse_args()
    source, chunk = Source(chosen.kind, chosen.state, device_of(None)), chosen.chunk
    generator = torch.Generator().manual_seed(SEED)
    chosen.out.mkdir(parents=True, exist_ok=True)
    shard, size, number = [], 0, 0
    for done in range(0, chosen.count, chunk):
        made = source.finish(source.plan(chunk, CONFIG["transformer"]["dropout"], generator))
        seen = made["before"] if chosen.kind == "edit" else None
        negative = source.negative(chunk, seen)
        made, negative = {key: made[key].cpu() for key in ("condition", "states", "mask")}, [one.cpu() for one in negative]
        for row in range(chunk):
            one = {"condition": made["condition"][row].to(torch.bfloat16)}
            for name, (states, mask) in {"prompt": (made["states"], made["mask"]), "negative": negative}.items():
                one[name] = states[row][mask[row]].to(torch.bfloat16)
            if chosen.kind == "layered" and (done or row):
                del one["negative"]  # the same for every picture
            shard.append(one)
            size += sum(value.nbytes for value in one.values())
        last = done + chunk >= chosen.count
        if last or size + size * chunk // len(shard) > SHARD_BYTES:
            path = chosen.out / f"{chosen.kind}-{number}.safetensors"
            save_file({f"{row}.{name}": value.contiguous() for row, one in enumerate(shard) for name, value in one.items()}, path)
            print(f"{path}: {len(shard)} scenes, {size / 1e6:.1f} MB", flush=True)
            shard, size, number = [], 0, number + 1


if __name__ == "__main__":
    main()
