"""Values for JSON. What JSON does not have is refused by its name, before anything is sent."""

from __future__ import annotations

import math
import numbers
import uuid
from collections.abc import Mapping, Sequence
from typing import Any


def plain(value: Any, name: str = "") -> Any:
    """The value as JSON has it; numbers of NumPy become Python's.

    Args:
        value: texts, numbers, booleans, `None`, ids, and mappings and sequences of them.
        name: what it is, for the error.

    Raises:
        ValueError: a number is not finite.
        TypeError: the value, or a part of it, is of another type.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{name or 'a value'}: {number} is not a finite number")
        return number
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [plain(item, f"{name}[{index}]") for index, item in enumerate(value)]
    if type(value).__name__ in {"bool", "bool_"}:  # NumPy's, which is not one of Python's.
        return bool(value)
    raise TypeError(
        f"{name or 'a value'}: {type(value).__name__} is not a text, a number, a boolean, a list or a mapping"
    )
