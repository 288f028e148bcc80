"""Random inputs of the deformable attention operators."""

from __future__ import annotations

import torch


def make(batch, queries, heads, channels, shapes, points, *, dtype=torch.float32, seed=0, spread=0.6):
    """Random inputs; sampling points stay away from pixel borders, where the gradient jumps."""
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    levels = len(shapes) // 2
    tokens = sum(shapes[2 * i] * shapes[2 * i + 1] for i in range(levels))
    value = (random(batch, tokens, heads, channels) - 0.5).to(dtype)
    sizes = torch.tensor(shapes, dtype=torch.float64).view(levels, 2).flip(1)
    pixels = (0.5 + (random(batch, queries, heads, levels, points, 2) - 0.5) * 2 * spread) * sizes[
        :, None
    ] - 0.5
    pixels = pixels.floor() + 0.05 + 0.9 * (pixels - pixels.floor())
    locations = ((pixels + 0.5) / sizes[:, None]).to(dtype)
    weights = random(batch, queries, heads, levels, points)
    return value, shapes, locations, (weights / weights.sum((-1, -2), keepdim=True)).to(dtype)


def make_fused(batch, queries, heads, channels, shapes, points, *, dtype=torch.float32, seed=0):
    value, shapes, locations, weights = make(
        batch, queries, heads, channels, shapes, points, dtype=torch.float64, seed=seed
    )
    levels = len(shapes) // 2
    sizes = torch.tensor(shapes, dtype=torch.float64).view(levels, 2).flip(1)
    generator = torch.Generator().manual_seed(seed + 1)
    reference_points = torch.rand(batch, queries, levels, 2, generator=generator, dtype=torch.float64)
    offsets = (locations - reference_points[:, :, None, :, None]) * sizes[:, None]
    return [
        x.to(dtype) if isinstance(x, torch.Tensor) else x
        for x in (value, shapes, reference_points, offsets, 3 * weights.log())
    ]
