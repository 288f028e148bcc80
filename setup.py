"""Packages oneformer, seggpt and segcore, and their optional compiled operators.

`pip install .` needs no compiler: pip builds in an isolated environment without
torch, so `segcore._C` is left out and the plain PyTorch operators are used.
`pip install --no-build-isolation .` compiles `segcore._C` against the torch that
is installed; when that fails (no compiler, broken headers) the package is
installed without it and the reason is printed (`pip install -v` shows it).

Environment:
    FORCE_CUDA=1    compile the CUDA sources although this machine shows no GPU;
                    a build that was forced and fails is an error
    SEGCORE_EXT=0   do not try to compile
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.errors import BaseError as BuildError

ROOT = Path(__file__).resolve().parent
CSRC = Path("segcore", "csrc")

INSTALL_REQUIRES = [
    # The model itself.
    "torch>=2.4",
    "torchvision",
    "numpy>=1.26",
    "timm>=1.0.17",
    "scipy>=1.11",
    "safetensors>=0.4",
    "huggingface_hub>=0.24",
    "open_clip_torch>=2.24",
    # Data and evaluation.
    "pillow>=9.4",
    "opencv-python-headless>=4.8",
    "pycocotools>=2.0.7",
    "faster-coco-eval>=1.6",
    # Configuration, registries, logs: what Detectron2 stands on and this package calls itself.
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.9",
    "pyyaml>=6.0",
    "tabulate>=0.9",
    "termcolor>=2.0",
    "tensorboard>=2.12",
    "tqdm>=4.65",
    "matplotlib>=3.7",
]

EXTRAS_REQUIRE = {
    "test": ["pytest>=7.4", "ruff>=0.5", "transformers>=4.44", "scikit-image>=0.22"],
    "hf": ["transformers>=4.44"],
    "demo": ["scikit-learn>=1.3"],   # its wheel carries the photograph that `make demo` shows
    "wandb": ["wandb>=0.16"],
}


def say(message: str) -> None:
    print(f"segcore._C: {message}", file=sys.stderr, flush=True)


def compiled_operators() -> dict:
    """Return setup()'s arguments that compile `segcore._C`, or none and say why."""
    forced = os.environ.get("FORCE_CUDA") == "1"
    if os.environ.get("SEGCORE_EXT") == "0":
        say("not compiled, as SEGCORE_EXT=0 asks")
        return {}
    sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / CSRC).rglob("*.cpp"))
    if not sources:
        return {}
    try:
        import torch
        from torch.utils import cpp_extension
    except ImportError as error:
        if forced:
            raise SystemExit(
                f"FORCE_CUDA=1, but torch cannot be imported while building ({error}); "
                "install torch and use: pip install --no-build-isolation ."
            ) from error
        say(f"not compiled, torch cannot be imported while building ({error}); "
            "`pip install --no-build-isolation .` compiles it")
        return {}

    with_cuda = forced or (torch.cuda.is_available() and cpp_extension.CUDA_HOME is not None)
    options = {"sources": sources, "extra_compile_args": {"cxx": ["-O3"]}, "optional": not forced}
    if with_cuda:
        options["sources"] += sorted(str(path.relative_to(ROOT)) for path in (ROOT / CSRC).rglob("*.cu"))
        options["define_macros"] = [("WITH_CUDA", None)]
        options["extra_compile_args"]["nvcc"] = ["-O3"]
    kind = cpp_extension.CUDAExtension if with_cuda else cpp_extension.CppExtension
    return {
        "ext_modules": [kind("segcore._C", **options)],
        "cmdclass": {"build_ext": tolerant(cpp_extension.BuildExtension, forced)},
    }


def tolerant(build_extension: type, forced: bool) -> type:
    """Wrap torch's build command so that a failure leaves the extension out instead of the package."""

    class BuildIfPossible(build_extension):
        def build_extensions(self) -> None:
            # What torch and setuptools raise when a compiler is missing, too old or fails.
            failures = (BuildError, OSError, RuntimeError, subprocess.SubprocessError)
            try:
                super().build_extensions()
            except failures as error:
                if forced:
                    raise
                say(f"not compiled, the plain PyTorch operators are used: {type(error).__name__}: {error}")
                self.extensions = []

    return BuildIfPossible


setup(
    name="oneformer-seggpt",
    version="0.1.0",
    description="OneFormer and SegGPT for Detectron2: install without a compiler, train, evaluate, show",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["oneformer*", "seggpt*", "segcore*"]),
    package_data={
        "segcore": ["**/*.json", "csrc/**/*"],
        "oneformer": ["**/*.json"],
        "seggpt": ["**/*.json"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    zip_safe=False,
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    **compiled_operators(),
)
