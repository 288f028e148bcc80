"""CUDA and Triton kernels on a GPU, against the reference in double precision."""

from __future__ import annotations

import pytest
import torch

from segcore.ops import (
    available_backends,
    ms_deform_attn,
    ms_deform_attn_fused,
    neighborhood_attention_2d,
    use_backend,
)
from tests.segcore.ops.inputs import make, make_fused

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BACKENDS = [name for name in ("cuda", "triton") if not available_backends()[name]]
FORMS = {"plain": (ms_deform_attn, make), "fused": (ms_deform_attn_fused, make_fused)}
CASES = [
    (2, 150, 8, 32, [9, 7, 5, 4, 3, 2], 4),
    (1, 1, 2, 32, [6, 5], 4),
    (1, 50, 3, 8, [5, 7, 3, 3], 3),
    (1, 50, 3, 16, [5, 7, 3, 3], 5),
    (1, 50, 2, 64, [5, 7, 3, 3], 4),
    (1, 50, 2, 20, [5, 7], 1),
    (1, 20, 2, 32, [6, 6, 5, 5, 4, 4, 3, 3, 2, 2], 9),
]


def gradients(function, inputs, backend, direction):
    leaves = [x.detach().clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in inputs]
    with use_backend(backend):
        output = function(*leaves)
        output.backward(direction.to(output.dtype))
    return [output.detach(), *(x.grad for x in leaves if isinstance(x, torch.Tensor))]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "x".join(map(str, case[:4])))
@pytest.mark.parametrize("deterministic", [False, True])
def test_error_within_twice_the_reference(backend, form, case, deterministic):
    function, build = FORMS[form]
    inputs = [x.cuda() if isinstance(x, torch.Tensor) else x for x in build(*case)]
    wide = [x.double() if isinstance(x, torch.Tensor) else x for x in inputs]
    direction = torch.randn(case[0], case[1], case[2] * case[3], dtype=torch.float64, device="cuda")
    exact = gradients(function, wide, "reference", direction)
    base = gradients(function, inputs, "reference", direction)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    try:
        ours = gradients(function, inputs, backend, direction)
        again = gradients(function, inputs, backend, direction)
    finally:
        torch.use_deterministic_algorithms(False)
    for place, (e, b, o) in enumerate(zip(exact, base, ours)):
        allowed = 2 * (b.double() - e).abs().max() + 1e-6 * e.abs().max() + 1e-7
        assert (o.double() - e).abs().max() <= allowed, place
    assert torch.equal(ours[0], again[0])
    if deterministic:
        assert all(torch.equal(a, b) for a, b in zip(ours, again))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_only_rounding(backend, dtype):
    value, shapes, locations, weights = make(*CASES[0])
    inputs = (value.to("cuda", dtype), shapes, locations.cuda(), weights.cuda())
    wide = [x.double() if isinstance(x, torch.Tensor) else x for x in inputs]
    direction = torch.randn(CASES[0][0], CASES[0][1], CASES[0][2] * CASES[0][3], device="cuda").to(dtype)
    exact = gradients(ms_deform_attn, wide, "reference", direction.double())
    ours = gradients(ms_deform_attn, inputs, backend, direction)
    assert [x.dtype for x in ours] == [dtype, dtype, torch.float32, torch.float32]
    for mine, true in zip(ours, exact):
        rounding = torch.finfo(mine.dtype).eps / 2 * true.abs() if mine.dtype == dtype else 0
        assert ((mine.double() - true).abs() <= rounding + 1e-5 * max(1, true.abs().max())).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradcheck(backend):
    value, shapes, *rest = make(2, 3, 2, 8, [5, 4, 3, 2], 2, dtype=torch.float64)
    leaves = [x.cuda().requires_grad_() for x in (value, *rest)]
    with use_backend(backend):
        # atomics: the gradient of the map repeats to rounding only
        assert torch.autograd.gradcheck(
            lambda v, p, w: ms_deform_attn(v, shapes, p, w), leaves, nondet_tol=1e-9
        )


@pytest.mark.skipif("triton" not in BACKENDS, reason="needs Triton")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", [(40, 40, 11, 1), (30, 27, 7, 3), (9, 13, 3, 2), (5, 5, 3, 1)])
def test_neighbourhood(dtype, case):
    height, width, kernel, dilation = case
    q, k, v = (torch.randn(2, 3, height, width, 32, device="cuda").to(dtype) for _ in range(3))
    rpb = torch.randn(3, 2 * kernel - 1, 2 * kernel - 1, device="cuda")
    direction = torch.randn(q.shape, dtype=torch.float64, device="cuda")
    arguments = (q, k, v, kernel, dilation, rpb, 0.2)
    wide = [x.double() if isinstance(x, torch.Tensor) else x for x in arguments]
    exact = gradients(neighborhood_attention_2d, wide, "reference", direction)
    ours = gradients(neighborhood_attention_2d, arguments, "triton", direction.to(dtype))
    tolerance = 1e-5 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
    for mine, true in zip(ours, exact):
        assert (mine.double() - true).abs().max() <= tolerance * max(1, true.abs().max())
