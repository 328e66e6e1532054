"""From a quantised GGUF file to the same weights in float16, for llama.cpp.

    write(quantised.gguf, f16.gguf)

Tunesmith expands a quantised file before it computes; with this file llama.cpp does the same, so
that both work on the same weights but for their rounding to float16. Vectors (norms, biases) stay
in float32, as llama.cpp's own converter keeps them.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

_MADE_ANEW = ("general.architecture", "general.file_type", "general.quantization_version")


def write(source: Path, out: Path) -> None:
    """Write `out` with the tensors of `source` expanded, and its other contents as they are."""
    reader = gguf.GGUFReader(source)
    architecture = reader.get_field("general.architecture")
    assert architecture is not None
    writer = gguf.GGUFWriter(out, architecture.contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in _MADE_ANEW:
            continue
        kind, *inner = field.types
        writer.add_key_value(name, field.contents(), kind, sub_type=inner[-1] if inner else None)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values.astype(np.float16 if values.ndim > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
