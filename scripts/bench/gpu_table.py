"""Prints the results of the library's example `bench` and of gpu_reference.py as a table for docs/performance.md.

    gpu_table.py ACETATE.json REFERENCE.json [NUMERICS.json] [--fp8 ACETATE-FP8.json] [--pictures PICTURES.json]
"""

import argparse
import datetime
import json
import shutil
import subprocess

GOALS = {
    "transformer, edit 1024, one reference": 250, "transformer, layered 640, 4 layers": 310,
    "transformer, layered 1024, 4 layers": 1150, "vae decode 1024": 40, "vae decode 4 x 640": 65,
    "vae encode 1024": 25, "text encoder, one picture": 40, "layered job, 640, 4 layers, 50 steps": 31_500,
    "load: transformer": 6000,
}  # fmt: skip
FP8_GOALS = {"transformer, edit 1024, one reference": 185, "transformer, layered 640, 4 layers": 230}


def load(path: str) -> dict:
    with open(path) as file:
        return json.load(file)


def command(*words: str) -> str:
    if shutil.which(words[0]) is None:
        return "unknown"
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else "unknown"


def milliseconds(line: dict | None) -> str:
    if line is None:
        return ""
    value = line["milliseconds"]
    return f"{value:.{3 if value < 10 else 1 if value < 1000 else 0}f}"


def verdict(line: dict, wanted: float | None) -> str:
    return "" if wanted is None else f"{wanted}" + ("" if line["milliseconds"] <= wanted else " **missed**")


def peaks(line: dict, other: dict | None) -> str:
    gib = [part["peak_bytes"] / 2**30 for part in (line, other) if part and part.get("peak_bytes")]
    return "" if not gib else f"{gib[0]:.1f}" + (f" ({gib[1]:.1f})" if len(gib) > 1 else "")


def goal(name: str, goals: dict) -> float | None:
    return next((value for prefix, value in goals.items() if name.startswith(prefix)), None)


def by_name(report: dict) -> dict:
    # The text encoder's line ends in its number of tokens, which may differ by a few.
    return {line["name"].split(", one picture")[0] if "text encoder" in line["name"] else line["name"]: line
            for line in report["lines"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("acetate")
    parser.add_argument("reference")
    parser.add_argument("numerics", nargs="?")
    parser.add_argument("--fp8")
    parser.add_argument("--pictures")
    parser.add_argument("--commit")
    arguments = parser.parse_args()
    ours, theirs = load(arguments.acetate), load(arguments.reference)
    reference = by_name(theirs)
    driver = command("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    commit = arguments.commit or command("git", "rev-parse", "--short", "HEAD")
    print(f"{datetime.date.today()}, {ours['device']}, driver {driver}, commit {commit}, {ours['attention']}; torch "
          f"{theirs['torch']}, diffusers on the same GPU in the same run.\n")  # fmt: skip
    if ours.get("product_rate"):
        print(f"Ceilings: matrix product {ours['product_rate'] / 1e12:.0f} TFLOP/s, copy {ours['copy_rate'] / 1e9:.0f} GB/s.\n")
    print("| | diffusers, ms | compiled | acetate, ms | goal | floor | over the floor | peak, GiB (diffusers) |")
    print("|---|---|---|---|---|---|---|---|")
    for line in ours["lines"]:
        name = line["name"].split(", one picture")[0] if "text encoder," in line["name"] else line["name"]
        wanted, floor, other = goal(line["name"], GOALS), line.get("floor_milliseconds"), reference.get(name)
        cells = [
            line["name"], milliseconds(other), milliseconds(reference.get(name + ", compiled")), milliseconds(line),
            verdict(line, wanted), "" if floor is None else f"{floor:.2f}",
            "" if floor is None else f"{line['milliseconds'] / floor:.2f}x", peaks(line, other),
        ]  # fmt: skip
        print("| " + " | ".join(cells) + " |")
    if arguments.fp8:
        print("\n| fp8 | acetate, ms | goal | peak, GiB |\n|---|---|---|---|")
        for line in load(arguments.fp8)["lines"]:
            cells = [line["name"], milliseconds(line), verdict(line, goal(line["name"], FP8_GOALS)), peaks(line, None)]
            print("| " + " | ".join(cells) + " |")
    if arguments.numerics:
        numbers = load(arguments.numerics)
        columns = list(next(iter(numbers.values())))
        print("\nRelative error (2-norm) of one pass against float32:\n")
        print("| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
        for name, values in numbers.items():
            print(f"| {name} | " + " | ".join(f"{values[column]:.2e}" for column in columns) + " |")
    if arguments.pictures:
        print("\nPSNR of all layers of a finished picture, a seed each, in dB:\n\n| | |\n|---|---|")
        for name, values in load(arguments.pictures).items():
            print(f"| {name} | " + ", ".join(f"{value:.1f}" for value in values) + " |")


if __name__ == "__main__":
    main()
