"""The compiled element-wise kernels: `native.c`, built by the C compiler at first use.

    native() ──> Native(library | None, reason)

The shared library is kept in a cache under the hash of its source (the headers beside it too), the
compiler, its flags and the processor's features, so that it is built once and never runs on a
processor that it was not built for. Where there is no compiler, or anything at all goes wrong,
`library` is None, the reason says why, and every kernel takes its path in PyTorch: slower, the same
numbers. Nothing is built at install or import. Threads are those of PyTorch: its OpenMP library is
already in the process, and the kernels are linked against no second one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("native.c")
_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC")
_VARIANTS = (
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-march=native",),
    (),
)
_TORCH = Path(torch.__file__).parent
_TORCH_LIBRARIES = _TORCH / "lib"
_SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True)
class Native:
    """The compiled kernels, or why there are none."""

    library: ctypes.CDLL | None
    reason: str


@cache
def native() -> Native:
    """Return the compiled kernels, building them if this machine has not yet. Never raises."""
    return built(SOURCE)


@dataclass(frozen=True)
class _Language:
    """How a source file becomes a library.

    Attributes:
        name: of the language.
        variable: of the environment, that names its compiler.
        compilers: that are looked for otherwise.
        flags: of every build.
        variants: further flags, the best first.
        links: what it is linked against.
        depends: what else the library depends on.
    """

    name: str
    variable: str
    compilers: tuple[str, ...]
    flags: tuple[str, ...]
    variants: tuple[tuple[str, ...], ...]
    links: tuple[str, ...]
    depends: str = ""

    def compiler(self) -> str | None:
        found = (shutil.which(name) for name in self.compilers)
        return os.environ.get(self.variable) or next(filter(None, found), None)


_LANGUAGES = {
    ".c": _Language("C", "CC", ("cc", "gcc"), _FLAGS, _VARIANTS, ("-lm",)),
    ".cpp": _Language(  # against PyTorch's own headers
        "C++",
        "CXX",
        ("c++", "g++"),
        ("-O2", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"),
        (("-std=c++20", f"-I{_TORCH / 'include'}"), ("-std=c++17", f"-I{_TORCH / 'include'}")),
        (f"-L{_TORCH_LIBRARIES}", "-lc10"),
        torch.__version__,
    ),
}


def built(source: Path) -> Native:
    """Return the library of one file in C, or in C++ with PyTorch's headers. Never raises.

    It is built if this machine has not yet.
    """
    language = _LANGUAGES[source.suffix]
    compiler = language.compiler()
    if compiler is None:
        return Native(None, f"no {language.name} compiler was found")
    reason = ""
    for flags in language.variants:
        try:
            path = _built(source, compiler.split(), flags)
            return Native(ctypes.CDLL(str(path)), f"compiled with {' '.join(flags) or 'no flags'}")
        except (OSError, subprocess.SubprocessError) as error:
            stderr = getattr(error, "stderr", None)
            reason = (stderr or str(error)).strip().splitlines()[-1]
    return Native(None, f"the {language.name} compiler failed: {reason}")


@cache
def product() -> ctypes.c_void_p | None:
    """Return the address of `sgemm` in the BLAS that PyTorch carries, or None.

    It is tried on a small product first: a BLAS with 64-bit whole numbers would not agree.
    """
    try:
        gemm = ctypes.CDLL(str(next(_TORCH_LIBRARIES.glob("libtorch_cpu.*")))).sgemm_
    except (StopIteration, OSError, AttributeError):
        return None
    a, b, c = torch.arange(12.0).view(3, 4), torch.arange(20.0).view(4, 5), torch.zeros(3, 5)
    size = [ctypes.byref(ctypes.c_int(n)) for n in (5, 3, 4)]
    one, zero = (ctypes.byref(ctypes.c_float(x)) for x in (1.0, 0.0))
    n, m, k = size
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (b, a, c)]
    gemm(b"N", b"N", n, m, k, one, pointers[0], n, pointers[1], k, zero, pointers[2], n)
    right = a.double() @ b.double()  # in a format that autocast leaves alone
    return ctypes.cast(gemm, ctypes.c_void_p) if torch.equal(c.double(), right) else None


def usable(*tensors: Tensor) -> bool:
    """Say whether the compiled kernels take these tensors: contiguous, one format, on the CPU."""
    dtype = tensors[0].dtype
    return (
        dtype in _SUFFIX
        and all(t.device.type == "cpu" and t.dtype == dtype for t in tensors)
        and all(t.is_contiguous() for t in tensors)
        and native().library is not None
    )


Argument = Tensor | ctypes.c_void_p | int | float | None


def call(function: str, *arguments: Argument, dtype: torch.dtype | None = None) -> None:
    """Call a kernel: tensors go as pointers, whole numbers as int64, others as float32.

    `dtype` picks the variant for that number format; None where the kernel has only one.
    """
    name = function if dtype is None else f"{function}_{_SUFFIX[dtype]}"
    getattr(native().library, name)(*map(_argument, arguments))


def _argument(value: Argument) -> object:
    if isinstance(value, ctypes.c_void_p):
        return value
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    return ctypes.c_void_p(None) if value is None else ctypes.c_int64(value)


def _built(source: Path, compiler: Sequence[str], variant: Sequence[str]) -> Path:
    """Return the shared library for this source, compiler, flags and processor."""
    language = _LANGUAGES[source.suffix]
    flags = (*language.flags, *variant)
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=30)
    code = [file.read_bytes() for file in (source, *sorted(source.parent.glob("*.h")))]
    what = [*code, version.stdout, " ".join(flags).encode(), _processor()]
    what += [language.depends.encode()] if language.depends else []
    key = hashlib.sha256(b"\0".join(what)).hexdigest()[:20]
    folder = _cache_folder()
    path = folder / f"kernels-{key}.so"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        compiled, linked = Path(scratch) / "native.o", Path(scratch) / "native.so"
        # Two steps, the second without -fopenmp: linking with it would load a second OpenMP.
        for command in (
            [*compiler, *flags, "-c", str(source), "-o", str(compiled)],
            [*compiler, "-shared", str(compiled), "-o", str(linked), *language.links],
        ):
            subprocess.run(command, capture_output=True, check=True, text=True, timeout=120)
        ctypes.CDLL(str(linked))
        linked.replace(path)
    return path


def _cache_folder() -> Path:
    """Our cache, or a folder of this process where that cannot be written."""
    home = os.environ.get("TUNESMITH_HOME") or Path.home() / ".cache" / "tunesmith"
    folder = Path(home) / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="tunesmith-kernels-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="tunesmith-"))


def _processor() -> bytes:
    """What `-march=native` depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        kinds = ("flags", "Features", "model name", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(kinds)})).encode()
    return f"{platform.machine()} {platform.processor()} {platform.platform()}".encode()
