"""The compiled extension: found, stale, limited to less of the processor, built with CUDA, built at first use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segcore.ops import available_backends, build, extension, info

ROOT = Path(__file__).resolve().parents[3]
needs_extension = pytest.mark.skipif(bool(available_backends()["cpu"]), reason="segcore._C is not built")
needs_nvcc = pytest.mark.skipif(
    build.toolkit() is None or not (build.toolkit() / "bin" / "nvcc").is_file(), reason="needs nvcc"
)


def run(*command, **environment) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@needs_extension
def test_extension_of_other_sources_is_not_loaded(monkeypatch):
    """One notice with the command that helps, in the warning, in `info` and where the backend is asked for."""
    monkeypatch.setattr(build, "source_stamp", lambda: "segcore_sources_of_tomorrow")
    monkeypatch.delenv(extension.JIT_VARIABLE, raising=False)
    rebuild = "built from other sources than these.*python setup.py build_ext --inplace"
    with pytest.warns(RuntimeWarning, match=rebuild):
        module, status = extension._load()
    assert module is None
    monkeypatch.setattr(extension, "_MODULE", module)
    monkeypatch.setattr(extension, "_STATUS", status)
    monkeypatch.setattr("segcore.ops.backend._OVERRIDE", [None])
    text = info.describe()
    assert "extension: segcore._C was built from other sources than these. Build it: python setup.py" in text
    assert "tensors on cpu: torch" in text
    assert "python setup.py build_ext --inplace" in available_backends()["cpu"]


def test_stamp_follows_the_sources(monkeypatch, tmp_path):
    shutil.copytree(build.CSRC, tmp_path / "csrc")
    before = build.source_stamp()
    monkeypatch.setattr(build, "CSRC", tmp_path / "csrc")
    assert build.source_stamp() == before
    with open(tmp_path / "csrc" / "vec.h", "a") as file:
        file.write("// changed\n")
    assert build.source_stamp() != before


LIMITED = """
import sys
import torch
from segcore.ops import extension, ms_deform_attn_fused, neighborhood_attention_2d
from tests.segcore.ops.inputs import make_fused
from tests.segcore.ops.test_deform import assert_error_within_twice_the_reference
from tests.segcore.ops.test_neighborhood import test_equals_loop_over_pixels
assert extension.instruction_set() == sys.argv[1]
for channels in (32, 20):
    inputs = make_fused(2, 150, 8, channels, [9, 7, 5, 4, 3, 2], 4)
    assert_error_within_twice_the_reference("cpu", inputs, ms_deform_attn_fused)
test_equals_loop_over_pixels("cpu", (1, 2, 11, 9, 8, 3, 2, True))
"""


@needs_extension
@pytest.mark.parametrize("capability, name", [("default", "default"), ("avx2", "AVX2")])
def test_instruction_sets(capability, name):
    """What older processors run, on this one."""
    if extension.instruction_set() == "default":
        pytest.skip("this processor has one instruction set only")
    run(sys.executable, "-c", LIMITED, name, ATEN_CPU_CAPABILITY=capability)


@needs_nvcc
@pytest.mark.parametrize("architecture", ["sm_90", pytest.param("sm_75", marks=pytest.mark.slow)])
def test_cuda_kernels_compile(architecture, tmp_path):
    nvcc = build.toolkit() / "bin" / "nvcc"
    flags = build.compile_arguments(cuda=True)[0]["nvcc"]
    for source in build.CSRC.glob("*.cu"):
        run(nvcc, *flags, f"-arch={architecture}", "-c", source, "-o", tmp_path / f"{source.stem}.o")


LOADED = """
import importlib.util
import sys
import torch

def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

# by path: importing segcore.ops would load the extension of the tree, and operators are registered once
module, build = load("segcore._C", sys.argv[1]), load("build", sys.argv[2])
assert module.sources == build.source_stamp() and module.with_cuda == 1
for name in ("msda_forward", "msda_backward"):
    for device in ("CPU", "CUDA"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key("segcore_native::" + name, device), (name, device)
"""


@needs_nvcc
@pytest.mark.slow
@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch was built without CUDA")
def test_forced_cuda_build(tmp_path):
    """The whole extension for a GPU that this machine does not have: it builds, loads and registers both devices."""
    folders = ("--build-lib", tmp_path / "lib", "--build-temp", tmp_path / "temp")
    run(sys.executable, "setup.py", "build_ext", *folders, FORCE_CUDA="1", TORCH_CUDA_ARCH_LIST="9.0")
    (built,) = (tmp_path / "lib" / "segcore").glob("_C.*")
    run(sys.executable, "-c", LOADED, built, build.__file__)


@pytest.mark.slow
@needs_extension  # there is a compiler
def test_build_at_first_use(tmp_path):
    """A copy of the package without its extension compiles one when SEGCORE_JIT=1 asks for it."""
    shutil.copytree(ROOT / "segcore", tmp_path / "segcore", ignore=shutil.ignore_patterns("_C.*", "__pycache__"))
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        # an editable installation would find the extension of the tree
        "sys.meta_path[:] = [f for f in sys.meta_path if '_editable' not in getattr(f, '__module__', '')]; "
        "from segcore.ops import available_backends, extension, info; print(info.describe()); "
        "assert extension.__file__.startswith(sys.argv[1]) and not available_backends()['cpu']"
    )
    environment = {"SEGCORE_JIT": "1", "TORCH_EXTENSIONS_DIR": str(tmp_path / "cache"), "FORCE_CUDA": "0"}
    assert "built just in time (SEGCORE_JIT=1)" in run(sys.executable, "-c", code, tmp_path, **environment)
