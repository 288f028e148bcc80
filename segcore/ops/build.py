"""How the extension `segcore._C` is compiled, for setup.py and for the build at first use.

Imported by setup.py by file path, before the package is installed: it imports nothing of segcore.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

__all__ = ["compile_arguments", "load_just_in_time", "source_stamp", "sources", "toolkit", "wants_cuda"]

CSRC = Path(__file__).resolve().parents[1] / "csrc"


def wants_cuda() -> bool:
    """FORCE_CUDA=1 asks for the CUDA kernels, 0 refuses; unset: where torch sees a GPU and nvcc is."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    forced = os.environ.get("FORCE_CUDA", "")
    if forced:
        return forced == "1"
    return torch.version.cuda is not None and CUDA_HOME is not None and torch.cuda.is_available()


def toolkit() -> Path | None:
    """The CUDA toolkit with headers on this machine; torch's guess may be a folder that only holds nvcc."""
    from torch.utils.cpp_extension import CUDA_HOME

    nvcc = shutil.which("nvcc")
    guesses = [CUDA_HOME, Path(nvcc).resolve().parents[1] if nvcc else None, "/usr/local/cuda"]
    roots = [Path(guess) for guess in guesses if guess]
    return next((root for root in roots if (root / "include" / "cuda_runtime.h").is_file()), None)


def sources(cuda: bool) -> list[Path]:
    """The files to compile."""
    names = sorted(CSRC.glob("*.cpp"))
    if not cuda:
        return [path for path in names if not path.stem.endswith("_cuda")]
    return names + sorted(CSRC.glob("*.cu"))


def source_stamp() -> str:
    """A word that changes with any source; it is compiled in, so that an extension of other sources is noticed."""
    digest = hashlib.sha256()
    for path in sorted(CSRC.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    return f"segcore_sources_{digest.hexdigest()[:16]}"


def compile_arguments(cuda: bool) -> tuple[dict[str, list[str]], list[str], list[tuple[str, str | None]]]:
    """Compiler flags by language, linker flags and macros."""
    macros: list[tuple[str, str | None]] = [("SEGCORE_SOURCES", source_stamp())]
    if cuda:
        macros.append(("SEGCORE_WITH_CUDA", None))
    if sys.platform == "win32":
        flags, link = ["/O2", "/std:c++17", "/openmp"], []
    else:
        flags = ["-O3", "-g0", "-std=c++17", "-fvisibility=hidden", "-Wno-psabi", "-Wno-unknown-pragmas"]
        link = ["-s"] if sys.platform == "linux" else []
        if sys.platform == "linux":
            # at::parallel_for is inline: without OpenMP here it would run on one thread, silently
            flags.append("-fopenmp")
            link.append("-fopenmp")
    root = toolkit() if cuda else None
    if root is not None:
        flags.append(f"-I{root / 'include'}")
        link += [f"-L{root / name}" for name in ("lib64", "lib") if (root / name).is_dir()]
    return {"cxx": flags, "nvcc": ["-O3", "-std=c++17", "--expt-relaxed-constexpr"]}, link, macros


def load_just_in_time():
    """Compile and load the extension now; raises what the compiler says if it fails."""
    from torch.utils import cpp_extension

    cuda = wants_cuda()
    flags, link, macros = compile_arguments(cuda)
    defines = [f"-D{name}" if value is None else f"-D{name}={value}" for name, value in macros]
    return cpp_extension.load(
        name="_C",
        sources=[str(path) for path in sources(cuda)],
        extra_cflags=flags["cxx"] + defines,
        extra_cuda_cflags=flags["nvcc"] + defines,
        extra_ldflags=link,
        with_cuda=cuda,
        is_python_module=True,
    )
