"""A model as one file that runs without this package: ONNX, or a compiled AOTInductor package.

Both start from one graph that torch.export records with the plain PyTorch operators: deformable attention is then
ONNX's GridSample. A file appears only after it has run and given the model's numbers.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segcore.ops import use_backend

OPSET = 18        # GridSample came with 16; 18 is what torch's exporter writes without a conversion
OLDEST_TORCH = (2, 6)  # the first whose exporters take a recorded graph
TOLERANCE = 1e-3  # largest difference from the model's own outputs, relative to their largest magnitude if above 1


@dataclass(frozen=True)
class Graph:
    """What is exported.

    Attributes:
        module: in eval mode; tensors in, a tuple of tensors out.
        inputs: by the name of the argument, in the order of `module.forward`; their sizes become the file's.
        outputs: names.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]

    def run(self) -> dict[str, np.ndarray]:
        """The outputs of the model itself for `inputs`, with the operators that the file will have."""
        with torch.no_grad(), use_backend("reference"):
            found = self.module(*self.inputs.values())
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, found, strict=True)}

    def capture(self) -> torch.export.ExportedProgram:
        """The recorded computation."""
        if self.module.training:
            raise ValueError("a model in training mode is not exported: call eval() first")
        with torch.no_grad(), use_backend("reference"):
            return torch.export.export(self.module, tuple(self.inputs.values()), strict=False)


def export_onnx(graph: Graph, path: str | os.PathLike) -> float:
    """Write an ONNX file, run it in onnxruntime, and compare.

    Args:
        path: of the `.onnx` file.

    Returns:
        The largest difference from the model's outputs, see `largest_difference`.

    Raises:
        ImportError: without onnx, onnxscript or onnxruntime, or with a torch before 2.6.
        ValueError: if the path does not end in .onnx, or the file does not give the model's numbers.
    """
    _require("onnx", "onnxscript", "onnxruntime")

    def write(target: Path) -> None:
        program = torch.onnx.export(
            graph.capture(), (), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=list(graph.inputs), output_names=list(graph.outputs))
        program.save(str(target))

    return _write_checked(graph, Path(path), ".onnx", write, load_onnx)


def export_package(graph: Graph, path: str | os.PathLike) -> float:
    """Compile an AOTInductor package for this processor, run it, and compare; see `export_onnx`.

    Raises:
        ImportError: with a torch before 2.6.
        RuntimeError: torch's own, e.g. if there is no C++ compiler.
        ValueError: if the path does not end in .pt2, or the package does not give the model's numbers.
    """
    _require()

    def write(target: Path) -> None:
        torch._inductor.aoti_compile_and_package(graph.capture(), package_path=str(target))

    return _write_checked(graph, Path(path), ".pt2", write, load_package)


Run = Callable[[Mapping[str, Tensor]], list[np.ndarray]]


def load_onnx(path: str | os.PathLike, threads: int = 0) -> Run:
    """An ONNX file as a function from named tensors to arrays, on onnxruntime's CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})


def load_package(path: str | os.PathLike) -> Run:
    """An AOTInductor package as a function from tensors, in the model's order, to arrays."""
    package = torch._inductor.aoti_load_package(os.fspath(path))

    def run(inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
        with torch.no_grad():
            return [tensor.numpy() for tensor in package(*inputs.values())]

    return run


def largest_difference(found: Sequence[np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """Largest |found - expected| over all outputs, each divided by max(1, its largest magnitude).

    Raises:
        ValueError: if a shape differs or a number is not finite.
    """
    worst = 0.0
    for got, (name, wanted) in zip(found, expected.items(), strict=True):
        if got.shape != wanted.shape or not np.isfinite(got).all():
            raise ValueError(f"output {name!r} is {got.shape}, wanted {wanted.shape}, or is not finite")
        worst = max(worst, float(np.abs(got - wanted).max(initial=0) / max(1.0, np.abs(wanted).max(initial=0))))
    return worst


def _write_checked(graph: Graph, path: Path, suffix: str, write: Callable[[Path], None],
                   load: Callable[[Path], Run]) -> float:
    if path.suffix != suffix:
        raise ValueError(f"the file must end in {suffix}, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        part = Path(folder) / path.name
        write(part)
        difference = largest_difference(load(part)(graph.inputs), graph.run())
        if difference > TOLERANCE:
            raise ValueError(
                f"{path} was not written: its outputs differ from the model's by {difference:.2g}, "
                f"more than {TOLERANCE}")
        os.replace(part, path)
    return difference


def _require(*modules: str) -> None:
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise ImportError(f"exporting needs torch {'.'.join(map(str, OLDEST_TORCH))} or later, not {torch.__version__}")
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"exporting to ONNX needs {', '.join(missing)}: pip install 'oneformer-seggpt[export]'")
