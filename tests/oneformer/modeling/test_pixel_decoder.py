"""The pixel decoder's attention module: its formula, and what torch.export and torch.compile make of it."""

from __future__ import annotations

import pytest
import torch

from oneformer.modeling.pixel_decoder import MSDeformAttn, token_centres
from segcore.ops import available_backends, ms_deform_attn, use_backend

SIZES = [(2, 3), (4, 5)]
BACKENDS = [name for name in ("reference", "torch", "cpu") if not available_backends()[name]]


class Attention(torch.nn.Module):
    """The module on fixed level sizes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = MSDeformAttn(32, num_levels=2, num_heads=4, num_points=3)
        for parameter in self.attention.parameters():
            torch.nn.init.normal_(parameter, std=0.3)

    def forward(self, query, value):
        centres = torch.cat([token_centres(h, w, query.device) for h, w in SIZES])
        return self.attention(query, value, centres, SIZES)


def inputs():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 26, 32, generator=generator).requires_grad_() for _ in range(2)]


def spelled_out(module, query, value):
    """Softmax over all levels' points, locations from pixel offsets, the plain operator (arXiv:2010.04159, eq. 3)."""
    attention = module.attention
    offsets = attention.sampling_offsets(query).view(2, 26, 4, 2, 3, 2)
    weights = attention.attention_weights(query).view(2, 26, 4, 6).softmax(-1).view(2, 26, 4, 2, 3)
    centres = torch.cat([token_centres(h, w, query.device) for h, w in SIZES])
    extent = torch.tensor([(w, h) for h, w in SIZES])[:, None]
    locations = centres[:, None, None, None] + offsets / extent
    sampled = ms_deform_attn(attention.value_proj(value).view(2, 26, 4, 8), [2, 3, 4, 5], locations, weights)
    return attention.output_proj(sampled)


def assert_same_with_gradients(output, expected, module, leaves):
    leaves = [*leaves, *module.parameters()]
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    direction = torch.linspace(-1, 1, output.numel()).view_as(output)
    for mine, true in zip(
        torch.autograd.grad(output, leaves, direction), torch.autograd.grad(expected, leaves, direction)
    ):
        torch.testing.assert_close(mine, true, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_equals_the_formula_and_compiles_whole(backend):
    module, leaves = Attention(), inputs()
    torch._dynamo.reset()
    with use_backend(backend):
        expected = spelled_out(module, *leaves)
        assert_same_with_gradients(module(*leaves), expected, module, leaves)
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        assert_same_with_gradients(compiled(*leaves), spelled_out(module, *leaves), module, leaves)


@pytest.mark.parametrize("backend", BACKENDS)
def test_export(backend):
    module, leaves = Attention().eval(), inputs()
    with use_backend(backend), torch.no_grad():
        program = torch.export.export(module, tuple(x.detach() for x in leaves))
        torch.testing.assert_close(program.module()(*leaves), module(*leaves))
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, torch.fx.GraphModule)]
    targets = [str(node.target) for graph in graphs for node in graph.nodes if node.op == "call_function"]
    assert targets.count("segcore.ms_deform_attn_fused.default") == (backend == "cpu")
