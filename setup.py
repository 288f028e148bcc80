"""Packages oneformer, seggpt and segcore, and their optional compiled operators.

`pip install .` needs no compiler. Where one is, and torch is installed, it compiles
`segcore._C` against that torch; when that fails (no compiler, broken headers) the
package is installed without it and the reason is printed (`pip install -v` shows
it; `python -m segcore.ops.info` tells afterwards).

Environment:
    FORCE_CUDA=1    compile the CUDA sources although this machine shows no GPU;
                    a build that was forced and fails is an error
    SEGCORE_EXT=0   do not try to compile
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.errors import BaseError, CCompilerError

ROOT = Path(__file__).resolve().parent

INSTALL_REQUIRES = [
    # The model itself.
    "torch>=2.4",
    "torchvision",
    "numpy>=1.26",
    "timm>=1.0.17",
    "scipy>=1.11",
    "safetensors>=0.4",
    "huggingface_hub>=0.24",
    # CLIP's vocabulary is a file in open_clip_torch; its tokenizer needs the other two.
    "open_clip_torch>=2.24",
    "ftfy>=6.1",
    "regex>=2023.6.3",
    # Data and evaluation.
    "pillow>=9.4",
    "opencv-python-headless>=4.8",
    "pycocotools>=2.0.7",
    # Configuration, registries, logs: what Detectron2 stands on and this package calls itself.
    "fvcore>=0.1.5.post20221221",
    "iopath>=0.1.9",
    "pyyaml>=6.0",
    "yacs>=0.1.8",
    "tabulate>=0.9",
    "tensorboard>=2.12",
    "tqdm>=4.65",
]

EXTRAS_REQUIRE = {
    "test": ["pytest>=7.4", "ruff>=0.5", "transformers>=4.44", "scikit-image>=0.22",
             "cityscapesscripts>=2.2", "supervision>=0.22", "playwright>=1.40"],
    "cityscapes": ["cityscapesscripts>=2.2"],  # its own preparation and evaluation
    "hf": ["transformers>=4.44"],
    "demo": ["scikit-learn>=1.3"],   # its wheel carries the photograph that `make demo` shows
    # demo/app.py. One major version: its components and their look change between them.
    "web": ["gradio>=6.12,<7"],
    "formats": ["supervision>=0.22"],  # segcore.formats.to_supervision; file formats need nothing
    # segcore.export: torch's ONNX exporter stands on the first two, the third runs the file to check it.
    "export": ["onnx>=1.17", "onnxscript>=0.3", "onnxruntime>=1.19"],
    "slurm": ["submitit>=1.5"],  # tools/slurm.py: writes the batch script, and starts the job again after a time-out
    "docs": ["mkdocs-material>=9.5,<10", "mkdocstrings[python]>=0.26"],  # API pages from the docstrings
    "wandb": ["wandb>=0.16"],
    "triton": ["triton>=3.0"],  # comes with torch's CUDA wheels; named for those who bring their own torch
}


def say(message: str) -> None:
    print(f"segcore._C: {message}", file=sys.stderr, flush=True)


def compiled_operators() -> dict:
    """Return setup()'s arguments that compile `segcore._C`, or none and say why."""
    forced = os.environ.get("FORCE_CUDA") == "1"
    if os.environ.get("SEGCORE_EXT") == "0":
        say("not compiled, as SEGCORE_EXT=0 asks")
        return {}
    try:
        import_torch()
    except ImportError as error:
        if forced:
            raise SystemExit(
                f"FORCE_CUDA=1, but torch cannot be imported while building ({error}); "
                "install torch, then this package"
            ) from error
        say(f"not compiled, torch is not installed here ({error}); with it, `pip install .` compiles them")
        return {}
    from torch.utils import cpp_extension

    recipe = build_recipe()
    with_cuda = recipe.wants_cuda()
    flags, link_flags, macros = recipe.compile_arguments(with_cuda)
    kind = cpp_extension.CUDAExtension if with_cuda else cpp_extension.CppExtension
    extension = kind(
        "segcore._C",
        sources=[str(path.relative_to(ROOT)) for path in recipe.sources(with_cuda)],
        extra_compile_args=flags if with_cuda else flags["cxx"],
        extra_link_args=link_flags,
        define_macros=macros,
        depends=[str(path.relative_to(ROOT)) for path in recipe.CSRC.glob("*.h")],
        optional=not forced,
    )
    say(f"compiling for torch {sys.modules['torch'].__version__}, {'with' if with_cuda else 'without'} CUDA")
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": tolerant(cpp_extension.BuildExtension, forced)},
    }


def import_torch() -> None:
    """Import the torch that the package will run with.

    pip builds in an isolated environment that hides it; the interpreter's own site-packages, appended last,
    shows it again without touching what the isolated environment provides. Nothing has to be downloaded.
    """
    try:
        import torch
    except ImportError:
        folders = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        sys.path += [folder for folder in folders if folder not in sys.path]
        import torch  # noqa: F401


def build_recipe():
    """segcore/ops/build.py, by path: importing it as a package member would import the whole package."""
    spec = importlib.util.spec_from_file_location("segcore_build", ROOT / "segcore" / "ops" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tolerant(build_extension: type, forced: bool) -> type:
    """Wrap torch's build command so that a failure leaves the extension out instead of the package."""

    class BuildIfPossible(build_extension):
        def build_extensions(self) -> None:
            # What torch and setuptools raise when a compiler is missing, too old or fails.
            failures = (BaseError, CCompilerError, OSError, RuntimeError, subprocess.SubprocessError)
            try:
                super().build_extensions()
            except failures as error:
                if forced:
                    raise
                say(f"not compiled, the plain PyTorch operators are used: {type(error).__name__}: {error}")
                self.drop_outputs()

        def drop_outputs(self) -> None:
            """Leave the extensions out, and remove what an earlier build of older sources made."""
            for extension in self.extensions:
                built = [Path(self.get_ext_fullpath(extension.name))]
                if self.inplace or getattr(self, "editable_mode", False):
                    built.append(ROOT / self.get_ext_filename(extension.name))
                for path in built:
                    path.unlink(missing_ok=True)
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
    entry_points={
        "console_scripts": ["oneformer = oneformer.commands:main", "seggpt = seggpt.commands:main"],
        # What `seggpt predict --prompt-from` may name.
        "seggpt.finders": ["oneformer = oneformer:OneFormerPredictor"],
    },
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
