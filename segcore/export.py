"""A model as one file that runs without this package: ONNX, or a compiled AOTInductor package.

Both start from a graph that torch.export records with plain PyTorch operators. For ONNX deformable attention is
GridSample; Inductor would take that apart into scalar loads (three times as slow on CPUs), so that its packages hold
the form for compilers, an embedding_bag. A file appears only after it has run and given the model's numbers, at
several sizes where it leaves sizes open.
"""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch._dynamo.exc import UserError

from segcore.ops import use_backend
from segcore.weight_storage import store_weights

OPSET = 18        # GridSample came with 16; 18 is what torch's exporter writes without a conversion
OLDEST_TORCH = (2, 6)  # the first whose exporters take a recorded graph
ONNX_MODULES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # difference from the model's own outputs, relative to their largest magnitude if above 1
INPUTS = "inputs"  # the key of what a package says of its inputs
MOST = 0.95       # of an output's numbers must be within it; see `Difference`


@dataclass(frozen=True)
class Graph:
    """What is exported.

    Attributes:
        module: in eval mode; tensors in, a tuple of tensors out.
        inputs: by the name of the argument, in the order of `module.forward`; their sizes become the file's.
        outputs: names.
        free_axes: by input and axis, the sizes that the file leaves open: a `torch.export.Dim`, or a multiple of one.
        others: more inputs, of other sizes too, which the file must get right.
    """

    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]
    free_axes: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    others: Sequence[Mapping[str, Tensor]] = ()

    def run(self, inputs: Mapping[str, Tensor] | None = None) -> dict[str, np.ndarray]:
        """What the model itself makes of `inputs` (default: the graph's), by the plainest operators."""
        with torch.no_grad(), use_backend("reference"):
            found = self.module(*(inputs or self.inputs).values())
        return {name: tensor.numpy() for name, tensor in zip(self.outputs, found, strict=True)}

    def storing_weights(self, form: str) -> Graph:
        """The same with weights held as "fp32", "bf16" or "int8"; see `segcore.weight_storage`."""
        return replace(self, module=store_weights(self.module, form))

    def capture(self, backend: str = "reference") -> torch.export.ExportedProgram:
        """The recorded computation.

        Args:
            backend: of `segcore.ops`, "reference" or "torch": what the operators are recorded as.

        Raises:
            ValueError: in training mode, or if the model depends on a size that shall stay open.
        """
        if self.module.training:
            raise ValueError("a model in training mode is not exported: call eval() first")
        axes = {name: dict(self.free_axes.get(name, {})) for name in self.inputs}
        try:
            with torch.no_grad(), use_backend(backend):
                return torch.export.export(
                    self.module, tuple(self.inputs.values()), dynamic_shapes=axes, strict=False)
        except UserError as error:
            raise ValueError(f"this model is exported for one size only: {error}") from error


class Difference(NamedTuple):
    """How far a file's outputs are from the model's, as a share of max(1, the output's largest magnitude).

    OneFormer's masked attention turns each mask logit into a decision. One that lies within rounding of 0 may fall
    either way, and moves its query: `largest` can then pass the tolerance although file and model are equally right,
    and `most`, what 95 % of an output's numbers stay within, does not.
    """

    largest: float
    most: float

    def __str__(self) -> str:
        return f"{self.largest:.1e}, {MOST:.0%} of the numbers within {self.most:.1e}"


def export_onnx(graph: Graph, path: str | os.PathLike) -> Difference:
    """Write an ONNX file, run it in onnxruntime, and compare.

    Args:
        path: of the `.onnx` file.

    Returns:
        The difference from the model's outputs, the worst over all inputs of the graph.

    Raises:
        ImportError: without onnx, onnxscript or onnxruntime, or with a torch before 2.6.
        ValueError: if the path does not end in .onnx, or the file does not give the model's numbers.
    """
    check_requirements(onnx=True)

    def write(target: Path) -> None:
        program = torch.onnx.export(
            graph.capture(), (), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=list(graph.inputs), output_names=list(graph.outputs))
        _forget_origin(program.model)
        program.save(str(target))

    return _write_checked(graph, Path(path), ".onnx", write, load_onnx)


def export_package(graph: Graph, path: str | os.PathLike) -> Difference:
    """Compile an AOTInductor package for this processor, run it, and compare; see `export_onnx`.

    Raises:
        ImportError: with a torch before 2.6.
        RuntimeError: torch's own, e.g. if there is no C++ compiler.
        ValueError: if the path does not end in .pt2, the graph leaves sizes open, or the package does not give the
            model's numbers.
    """
    check_requirements(onnx=False)
    if graph.free_axes:
        raise ValueError("a package is compiled for one size: give the size, or write an .onnx file, which takes any")

    def write(target: Path) -> None:
        torch._inductor.aoti_compile_and_package(
            graph.capture("torch"), package_path=str(target),
            inductor_configs={"aot_inductor.metadata": {INPUTS: json.dumps(_described(graph.inputs))}})

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
    """An AOTInductor package as a function from named tensors to arrays.

    The compiled code looks at neither the shape nor the strides of what it gets, and would read other memory: here
    tensors of another shape or type are refused, and others are laid out as it needs them.

    Raises:
        ValueError: for a package that `export_package` did not write; by the function, for inputs it was not made for.
    """
    package = torch._inductor.aoti_load_package(os.fspath(path))
    metadata = package.get_metadata()
    if INPUTS not in metadata:
        raise ValueError(f"{path} does not say what it takes: write it again with tools/export.py")
    wanted = json.loads(metadata[INPUTS])

    def run(inputs: Mapping[str, Tensor]) -> list[np.ndarray]:
        if (found := _described(inputs)) != wanted:
            raise ValueError(f"{path} was compiled for {wanted}, got {found}; export one for these")
        with torch.no_grad():
            return [tensor.numpy() for tensor in package(*(inputs[name].contiguous() for name in wanted))]

    return run


def _described(inputs: Mapping[str, Tensor]) -> dict[str, str]:
    """By name, in order: type and shape."""
    return {name: f"{tensor.dtype} {list(tensor.shape)}" for name, tensor in inputs.items()}


def difference(found: Sequence[np.ndarray], expected: Mapping[str, np.ndarray]) -> Difference:
    """|found - expected|, each output divided by max(1, its largest magnitude); the worst output counts.

    Raises:
        ValueError: if a shape differs or a number is not finite.
    """
    worst = Difference(0.0, 0.0)
    for got, (name, wanted) in zip(found, expected.items(), strict=True):
        if got.shape != wanted.shape or not np.isfinite(got).all():
            raise ValueError(f"output {name!r} is {got.shape}, wanted {wanted.shape}, or is not finite")
        if wanted.size:
            off = np.abs(got - wanted) / max(1.0, np.abs(wanted).max())
            worst = _worst([worst, Difference(float(off.max()), float(np.quantile(off, MOST)))])
    return worst


def _forget_origin(model: Any) -> None:
    """Drop the stack trace of each node: a tenth of a small file, and full of the paths of this machine."""
    parts = [model, model.graph]
    for node in model.graph:
        parts += [node, *node.outputs]
    for part in parts:
        part.metadata_props.clear()


def _worst(differences: Iterable[Difference]) -> Difference:
    return Difference(*map(max, zip(*differences)))


def _write_checked(graph: Graph, path: Path, suffix: str, write: Callable[[Path], None],
                   load: Callable[[Path], Run]) -> Difference:
    if path.suffix != suffix:
        raise ValueError(f"the file must end in {suffix}, got {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        part = Path(folder) / path.name
        write(part)
        run = load(part)
        found = _worst(difference(run(each), graph.run(each)) for each in (graph.inputs, *graph.others))
        if found.most > TOLERANCE:
            raise ValueError(f"{path} was not written: its outputs differ from the model's by up to {found}, "
                             f"more than {TOLERANCE}")
        os.replace(part, path)
    return found


def check_requirements(*, onnx: bool) -> None:
    """Raise ImportError if torch is too old to export, or with `onnx` if what writes and runs ONNX files is missing."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise ImportError(f"exporting needs torch {'.'.join(map(str, OLDEST_TORCH))} or later, not {torch.__version__}")
    missing = [name for name in ONNX_MODULES if importlib.util.find_spec(name) is None] if onnx else []
    if missing:
        raise ImportError(f"exporting to ONNX needs {', '.join(missing)}: pip install 'oneformer-seggpt[export]'")
