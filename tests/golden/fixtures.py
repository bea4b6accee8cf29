"""Where fixtures go, and how they are written so that a second run writes the same bytes."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
CHECKPOINTS = HERE / "checkpoints"
TENSORS = HERE / "tensors"
PICTURES = HERE / "pictures"


def save(name: str, tensors: dict[str, torch.Tensor], notes: dict | None = None) -> None:
    """Writes `tensors/{name}.safetensors`; `notes` go into the header as one JSON string under "notes"."""
    TENSORS.mkdir(exist_ok=True)
    tensors = {key: value.detach().contiguous().clone() for key, value in sorted(tensors.items())}
    bad = [key for key, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise SystemExit(f"{name}: {bad} are not finite")
    # One key only: the order of several is not fixed.
    metadata = {"notes": json.dumps(notes, ensure_ascii=False, sort_keys=True)} if notes else None
    path = TENSORS / f"{name}.safetensors"
    save_file(tensors, path, metadata=metadata)
    path.chmod(0o644)


def pixels(picture: Image.Image) -> torch.Tensor:
    """uint8 (h, w, c)."""
    return torch.from_numpy(np.array(picture))


class Recorder:
    """Keeps the output of modules during a forward pass."""

    def __init__(self, **modules: torch.nn.Module):
        self.seen: dict[str, object] = {}
        self.hooks = [module.register_forward_hook(self.keep(name)) for name, module in modules.items()]

    def keep(self, name):
        def hook(_module, _inputs, output):
            self.seen[name] = output

        return hook

    def __enter__(self):
        return self.seen

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()
