"""The Triton kernels in Triton's interpreter (on a GPU, test_gpu.py runs them compiled)."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

# The interpreter is chosen when Triton is imported, so it needs a process of its own.
PREPARE = """
import torch
from segcore.ops import ms_deform_attn_fused, neighborhood_attention_2d
from tests.segcore.ops.inputs import make, make_fused
from tests.segcore.ops.test_deform import assert_error_within_twice_the_reference, gradients
torch.manual_seed(0)
"""
CASE = "2, 20, 2, 12, [3, 4, 2, 2], 3"
DEFORM = f"""
assert_error_within_twice_the_reference("triton", make({CASE}))
assert_error_within_twice_the_reference("triton", make_fused({CASE}), ms_deform_attn_fused)
torch.use_deterministic_algorithms(True)  # the map's gradient in 64-bit integers
assert_error_within_twice_the_reference("triton", make_fused({CASE}), ms_deform_attn_fused)

# without a gradient from above; with a logit that is not a number, which integers cannot carry
inputs = make_fused({CASE})
_, *grads = gradients(inputs, "triton", torch.zeros(2, 20, 24), ms_deform_attn_fused)
assert not any(g.any() for g in grads)
inputs[4][1, 3, 1] = float("nan")
output, value_grad, *_ = gradients(inputs, "triton", torch.ones(2, 20, 24), ms_deform_attn_fused)
assert output[1, 3, 12:].isnan().all() and output.isnan().sum() == 12 and value_grad.isnan().any()
"""
NEIGHBOURHOOD = """
from tests.segcore.ops.test_neighborhood import make as make_maps
for case in ((1, 2, 4, 5, 6, 3, 1, True), (1, 1, 7, 6, 4, 3, 2, True), (1, 1, 10, 6, 4, 5, 1, False)):
    *shape, kernel, dilation, bias = case
    inputs = [x for x in make_maps(shape, kernel, torch.float64, bias) if x is not None]
    function = lambda q, k, v, rpb=None: neighborhood_attention_2d(q, k, v, kernel, dilation, rpb, 0.37)
    direction = torch.randn(inputs[0].shape, dtype=torch.float64)
    exact = gradients(inputs, "reference", direction, function)
    for mine, true in zip(gradients(inputs, "triton", direction, function), exact):
        torch.testing.assert_close(mine, true, atol=1e-12, rtol=0)
"""


@pytest.mark.parametrize("code", [DEFORM, NEIGHBOURHOOD], ids=["deform", "neighbourhood"])
def test_interpreted(code):
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
