"""The checkpoints that are timed: the architecture of the golden ones, larger, built once under target/."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
sys.path.insert(0, str(GOLDEN))

RESOLUTION, CONDITION_AREA, VAE_AREA = 128, 12544, 16384
SETTINGS = {
    "layered": {"resolutions": [RESOLUTION], "prompt_template_encode_start_idx": 34},
    # diffusers counts positions so: see "Positions in Edit" in tests/golden/README.md.
    "edit": {"condition_area": CONDITION_AREA, "vae_area": VAE_AREA, "prompt_template_encode_start_idx": 64,
             "text_positions": "sequential"},
}


def size():
    """8 blocks, 8 heads x 32; VAE base 24; text encoder 256 wide, 6 layers."""
    import checkpoints

    return checkpoints.Size(
        blocks=8, heads=8, rope_axes=(8, 12, 12), vae_base=24, hidden=256, text_layers=6, text_heads=(8, 4),
        text_inner=768, mrope=(4, 6, 6), vision_hidden=128, vision_heads=4, vision_inner=384,
    )  # fmt: skip


def build(folder: Path) -> None:
    """Writes `folder`/layered and `folder`/edit unless they are there, made with the same sizes and rules."""
    import checkpoints
    import torch

    rules = [checkpoints.TRANSFORMER_GAINS, checkpoints.TEXT_GAINS, checkpoints.VAE_GAINS]
    wanted, stamp = repr((size(), SETTINGS, rules)), folder / "made-from.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"building the checkpoints in {folder} ...", file=sys.stderr)
    with torch.no_grad():
        for kind, settings in SETTINGS.items():
            checkpoints.write(kind, folder / kind, size(), settings, {})
    stamp.write_text(wanted)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
