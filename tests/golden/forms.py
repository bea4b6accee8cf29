#!/usr/bin/env python3
"""Makes the GGUF fixtures in forms/ with the `gguf` package, or checks a GGUF of acetate with it.

    forms.py                       makes forms/
    forms.py check GGUF DENSE      compares a file of `acetate models convert` with its dense source (safetensors)

Needs: pip install gguf safetensors ml_dtypes numpy
"""

import json
import struct
import sys
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

HERE = Path(__file__).parent
FORMS = HERE / "forms"
# Quantized in the file, in turns; the widths of the checkpoint are not multiples of 32.
MIXTURE = [Type.Q8_0, Type.Q5_1, Type.Q5_0, Type.Q4_1, Type.Q4_0]
BLOCKS = [Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K]
# The offsets of the 16-bit floats in a block; everything else may be any bytes.
FLOATS = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82],
    Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
}  # fmt: skip


def read_dense(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file as float32; safetensors for numpy does not read bfloat16."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    types = {"F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            first, end = (8 + length + offset for offset in entry["data_offsets"])
            numbers = np.frombuffer(data[first:end], types[entry["dtype"]])
            tensors[name] = numbers.astype(np.float32).reshape(entry["shape"])
    return tensors


def whole() -> None:
    """The layered transformer as quantizers write it: matrices of blocks in blocks, the others in bfloat16."""
    dense = read_dense(HERE / "checkpoints/layered/transformer/diffusion_pytorch_model.safetensors")
    writer = gguf.GGUFWriter(FORMS / "layered.gguf", "qwen_image")
    writer.add_name("golden layered")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    matrices = 0
    for name, tensor in dense.items():
        if tensor.ndim < 2 or not name.startswith("transformer_blocks."):
            dtype = Type.BF16 if tensor.ndim == 2 else Type.F32
            data = gguf.quants.quantize(tensor, dtype)
            writer.add_tensor(name, data, raw_shape=data.shape, raw_dtype=dtype)
            continue
        dtype = MIXTURE[matrices % len(MIXTURE)]
        matrices += 1
        writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
        data = gguf.quants.quantize(tensor.reshape(-1, 32), dtype)
        writer.add_tensor(name, data, raw_shape=data.shape, raw_dtype=dtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def types() -> None:
    """A tensor of random blocks of every type, and the numbers that gguf reads in them; and all fp8 numbers."""
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(FORMS / "types.gguf", "qwen_image")
    expected = {}
    for dtype in BLOCKS:
        elements, size = gguf.GGML_QUANT_SIZES[dtype]
        count = 4 * 512 // elements
        blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
        for at in FLOATS[dtype]:
            floats = random.uniform(-0.1, 0.1, count).astype(np.float16)
            blocks[:, at : at + 2] = floats.view(np.uint8).reshape(count, 2)
        data = blocks.reshape(4, -1)
        writer.add_tensor(dtype.name, data, raw_shape=data.shape, raw_dtype=dtype)
        expected[dtype.name] = gguf.quants.dequantize(data, dtype).astype(np.float32)
    for dtype, numpy in ((Type.F16, np.float16), (Type.F32, np.float32)):
        numbers = random.normal(size=(4, 512)).astype(numpy)
        writer.add_tensor(dtype.name, numbers)
        expected[dtype.name] = numbers.astype(np.float32)
    bits = np.arange(256, dtype=np.uint8)
    for name, dtype in (("e4m3", ml_dtypes.float8_e4m3fn), ("e5m2", ml_dtypes.float8_e5m2)):
        expected[name] = bits.view(dtype).astype(np.float32)
    numbers = random.normal(size=4096).astype(np.float32) * np.float32(60)
    expected["numbers"] = numbers
    expected["numbers_e4m3"] = np.clip(numbers, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    save_file(expected, FORMS / "types.safetensors")


def check(path: Path, source: Path) -> None:
    dense = read_dense(source)
    reader = gguf.GGUFReader(path)
    for key in ("general.architecture", "general.file_type", "general.quantization_version"):
        print(key, reader.fields[key].contents())
    shapes = {
        key.removeprefix("comfy.gguf.orig_shape."): field.contents()
        for key, field in reader.fields.items()
        if key.startswith("comfy.gguf.orig_shape.")
    }
    errors: dict[str, list[float]] = {}
    left = set(dense)
    for tensor in reader.tensors:
        left.remove(tensor.name)
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        wanted = dense[tensor.name]
        shape = shapes.get(tensor.name, list(reversed(tensor.shape.tolist())))
        if list(shape) != list(wanted.shape):
            raise SystemExit(f"{tensor.name}: {shape} instead of {wanted.shape}")
        found = found.reshape(wanted.shape)
        error = float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-20))
        errors.setdefault(tensor.tensor_type.name, []).append(error)
    if left:
        raise SystemExit(f"missing: {sorted(left)[:5]}")
    for name, all_of in sorted(errors.items()):
        print(f"{name}: {len(all_of)} tensors, relative error {min(all_of):.2e} to {max(all_of):.2e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["check"]:
        check(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        FORMS.mkdir(exist_ok=True)
        whole()
        types()
