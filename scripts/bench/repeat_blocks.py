"""Makes a larger transformer out of a small one by repeating its blocks, for measurements of speed and memory.

    repeat_blocks.py FILE OUT BLOCKS

FILE is a GGUF or safetensors file. Its blocks are used in turn; everything else is copied. Converting the weights of the
full model takes minutes; this takes seconds.
"""

import re
import sys
from pathlib import Path

from gguf import GGUFReader, GGUFValueType, GGUFWriter
from safetensors import safe_open
from safetensors.torch import save_file

BLOCK = re.compile(r"(.*transformer_blocks\.)(\d+)(\..*)")


def repeat(names: list[str], blocks: int) -> dict[str, str]:
    """The names of the larger model, each with the name of the tensor to copy."""
    made, found = {}, [(name, BLOCK.fullmatch(name)) for name in names]
    here = 1 + max(int(match[2]) for _, match in found if match)
    for name, match in found:
        if match is None:
            made[name] = name
            continue
        for block in range(int(match[2]), blocks, here):
            made[f"{match[1]}{block}{match[3]}"] = name
    return made


def gguf(file: Path, out: Path, blocks: int) -> None:
    reader = GGUFReader(file)
    writer = GGUFWriter(out, arch=reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name != "general.architecture" and not name.startswith("GGUF."):
            kind = field.types[0]
            writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for name, source in repeat(list(tensors), blocks).items():
        writer.add_tensor(name, tensors[source].data, raw_dtype=tensors[source].tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def safetensors(file: Path, out: Path, blocks: int) -> None:
    with safe_open(file, framework="pt") as reader:
        tensors = {name: reader.get_tensor(name) for name in reader.keys()}
        # Tensors that share memory are not stored.
        made = {name: tensors[source].clone() for name, source in repeat(list(tensors), blocks).items()}
        save_file(made, out, metadata=reader.metadata())


if __name__ == "__main__":
    file, out, blocks = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    (gguf if file.suffix == ".gguf" else safetensors)(file, out, blocks)
