"""Random weights that make every path of a model matter.

Each parameter is drawn from a generator of its own, seeded by its name, so that a change of one size or one rule
leaves all the others as they were.
"""

import hashlib
import math
import re

import torch


def seed_of(*parts) -> int:
    """A 63-bit seed from any words."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def normal(shape, *parts) -> torch.Tensor:
    """Standard normal float32 values that depend on `parts` alone."""
    generator = torch.Generator("cpu").manual_seed(seed_of(*parts))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)


def fan_in(parameter: torch.Tensor) -> int:
    """Inputs that one output sums over. One frame meets only the last temporal tap of a 3-D kernel."""
    if parameter.ndim == 5 and parameter.shape[2] > 1:
        return parameter.shape[1] * parameter.shape[3] * parameter.shape[4]
    return math.prod(parameter.shape[1:])


@torch.no_grad()
def fill(model: torch.nn.Module, seed: str, gains: list[tuple[str, float]]) -> torch.nn.Module:
    """Fills `model`: matrices with deviation gain / sqrt(fan in), norm weights around 1, biases around 0.

    `gains` holds (regex, gain) pairs; the first that is found in a parameter's name counts, else 1. For norm weights
    the gain is their mean, for biases it scales their spread. Values are rounded to bfloat16, as they are stored.
    """
    for name, parameter in model.named_parameters():
        gain = next((gain for pattern, gain in gains if re.search(pattern, name)), 1.0)
        drawn = normal(parameter.shape, seed, name)
        if name.endswith("gamma") or (parameter.ndim == 1 and name.endswith("weight")):
            value = gain * (1.0 + 0.2 * drawn)
        elif parameter.ndim == 1:
            value = 0.2 * gain * drawn
        elif "embed" in name and parameter.ndim == 2 and "timestep" not in name:
            value = gain * drawn
        else:
            value = gain * drawn / math.sqrt(fan_in(parameter))
        parameter.copy_(value.to(torch.bfloat16))
    return model.eval()
