"""The Triton kernels in Triton's interpreter (on a GPU, the other tests' backends include Triton)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# The interpreter is chosen when Triton is imported, so it needs a process of its own.
INTERPRETED = """
import torch
from segcore.ops import ms_deform_attn, ms_deform_attn_fused, neighborhood_attention_2d, use_backend
torch.manual_seed(0)
def compare(function, *inputs):
    results = []
    for backend in ("triton", "reference"):
        leaves = [x.clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in inputs]
        with use_backend(backend):
            output = function(*leaves)
            output.backward(torch.linspace(-1, 1, output.numel()).view_as(output))
        results.append([output, *(x.grad for x in leaves if isinstance(x, torch.Tensor))])
    for mine, true in zip(*results):
        torch.testing.assert_close(mine, true, atol=2e-5, rtol=1e-4)
"""
DEFORM = """
value, points = torch.randn(2, 16, 2, 12), torch.rand(2, 3, 2, 2, 3, 2) * 1.4 - 0.2
logits = torch.randn(2, 3, 2, 2, 3)
for exact in (False, True):
    torch.use_deterministic_algorithms(exact)
    compare(ms_deform_attn, value, [3, 4, 2, 2], points, logits)
    compare(ms_deform_attn_fused, value, [3, 4, 2, 2], torch.rand(1, 3, 2, 2), points * 5, logits)
"""
NEIGHBOURHOOD = """
for height, width, kernel, dilation, bias in ((4, 5, 3, 1, True), (7, 6, 3, 2, True), (6, 5, 5, 1, False)):
    q, k, v = torch.randn(3, 1, 2, height, width, 6)
    rpb = torch.randn(2, 2 * kernel - 1, 2 * kernel - 1) if bias else None
    compare(neighborhood_attention_2d, q, k, v, kernel, dilation, rpb, 0.4)
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [DEFORM, NEIGHBOURHOOD], ids=["deform", "neighbourhood"])
def test_interpreted(code):
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED + code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
