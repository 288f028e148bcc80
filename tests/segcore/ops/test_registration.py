"""The operators as PyTorch sees them: opcheck, compile, export, autocast, determinism, backend choice."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from segcore.ops import (
    available_backends,
    ms_deform_attn,
    ms_deform_attn_fused,
    neighborhood_attention_2d,
    use_backend,
)
from segcore.ops.backend import choose_backend
from tests.segcore.ops.inputs import make, make_fused

needs_extension = pytest.mark.skipif(bool(available_backends()["cpu"]), reason="segcore._C is not built")
SHAPES = [5, 4, 3, 2]


def tracked(inputs):
    return [x.requires_grad_() if isinstance(x, torch.Tensor) else x for x in inputs]


def attention_inputs():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 2, 6, 7, 8, generator=generator) for _ in range(3)]
    return [*maps, 3, 1, torch.randn(2, 5, 5, generator=generator), 0.3]


@pytest.mark.parametrize(
    "operator, inputs",
    [
        (torch.ops.segcore.ms_deform_attn.default, lambda: make(2, 3, 2, 8, SHAPES, 2)),
        (torch.ops.segcore.ms_deform_attn_fused.default, lambda: make_fused(2, 3, 2, 8, SHAPES, 2)),
        (torch.ops.segcore.neighborhood_attention_2d.default, attention_inputs),
    ],
    ids=["plain", "fused", "neighbourhood"],
)
def test_opcheck(operator, inputs):
    results = torch.library.opcheck(operator, tracked(inputs()))
    assert set(results.values()) == {"SUCCESS"}


class Sampler(torch.nn.Module):
    def forward(self, value, locations, weights):
        return ms_deform_attn(value, SHAPES, locations, weights)


@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=needs_extension)])
def test_export_and_run(backend):
    value, _, locations, weights = make(2, 3, 2, 8, SHAPES, 2)
    with use_backend(backend):
        program = torch.export.export(Sampler(), (value, locations, weights))
        # the autocast rule puts the call into a graph of its own
        graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
        names = {str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"}
        # one node per call where a compiled kernel serves it
        assert ("segcore.ms_deform_attn.default" in names) == (backend == "cpu")
        torch.testing.assert_close(
            program.module()(value, locations, weights), Sampler()(value, locations, weights)
        )


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=needs_extension)])
def test_compile_whole_graph(backend, fused, compiler):
    function, build = (ms_deform_attn_fused, make_fused) if fused else (ms_deform_attn, make)
    inputs = tracked(build(2, 3, 2, 8, SHAPES, 2))
    leaves = [x for x in inputs if isinstance(x, torch.Tensor)]
    torch._dynamo.reset()
    with use_backend(backend):
        compiled = torch.compile(function, fullgraph=True, backend=compiler)
        output, plain = compiled(*inputs), function(*inputs)
        torch.testing.assert_close(output, plain)
        for mine, true in zip(
            torch.autograd.grad(output.square().sum(), leaves), torch.autograd.grad(plain.square().sum(), leaves)
        ):
            torch.testing.assert_close(mine, true, atol=1e-5, rtol=1e-5)


def test_autocast_keeps_geometry_in_single_precision():
    value, shapes, locations, weights = make(1, 20, 2, 8, SHAPES, 2)
    value = value.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ms_deform_attn(value, shapes, locations, weights)
        direct = torch.ops.segcore.ms_deform_attn(value, shapes, locations, weights)
    outside = ms_deform_attn(value, shapes, locations, weights)
    assert inside.dtype == torch.bfloat16
    assert torch.equal(inside, outside) and torch.equal(direct, outside)


@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=needs_extension)])
@pytest.mark.parametrize("threads", [1, 2])
def test_repeats_to_the_bit(backend, threads):
    """Forward and backward, under use_deterministic_algorithms too, which must not raise."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(3):
            deform, attention = tracked(make_fused(2, 300, 4, 32, [12, 9, 6, 5], 4)), tracked(attention_inputs())
            with use_backend(backend):
                outputs = [ms_deform_attn_fused(*deform), neighborhood_attention_2d(*attention)]
                sum(x.square().sum() for x in outputs).backward()
            grads = [x.grad for x in (*deform, *attention) if isinstance(x, torch.Tensor)]
            runs.append([*(x.detach() for x in outputs), *grads])
        assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_num_threads(before)


def test_unknown_and_missing_backends_raise():
    with pytest.raises(ValueError, match="unknown operator backend 'fast'"), use_backend("fast"):
        pass
    missing = [name for name, reason in available_backends().items() if reason]
    for name in missing:
        with (
            pytest.raises(RuntimeError, match=f"operator backend '{name}' is not available"),
            use_backend(name),
        ):
            pass


def test_backend_is_restored_after_an_error():
    before = choose_backend("cpu")
    with pytest.raises(KeyError), use_backend("reference"):
        assert choose_backend("cpu") == "reference"
        raise KeyError
    assert choose_backend("cpu") == before


@needs_extension
def test_a_backend_of_another_device_raises():
    with use_backend("cpu"), pytest.raises(RuntimeError, match="asked for, but the tensors are on 'cuda'"):
        choose_backend("cuda")


def test_environment_variable_and_info():
    done = subprocess.run(
        [sys.executable, "-m", "segcore.ops.info"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "SEGCORE_OPS_BACKEND": "reference"},
    )
    assert "tensors on cpu: reference" in done.stdout
    assert "asked for by use_backend or SEGCORE_OPS_BACKEND" in done.stdout
