"""SegGPT as a graph of tensors, for `segcore.export`.

Shapes:  K prompts, N queries, (h, w) pixels of one picture.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segcore.export import Graph
from seggpt.modeling import SegGPT
from seggpt.modeling.in_context import encode_prompts, paint

SEG_TYPES = {"semantic": 0, "instance": 1}


class SegGPTGraph(nn.Module):
    """K prompts with their paintings and N queries in, the queries' paintings out."""

    def __init__(self, model: SegGPT, seg_type: str):
        super().__init__()
        self.model, self.seg_type = model, SEG_TYPES[seg_type]

    def forward(self, prompt_images: Tensor, prompt_paintings: Tensor, images: Tensor) -> tuple[Tensor]:
        """
        Args:
            prompt_images, prompt_paintings: (K, 3, h, w) float RGB, 0..255.
            images: (N, 3, h, w) float RGB, 0..255.

        Returns:
            One tensor: (N, 3, h, w) RGB, 0..255, averaged over the prompts in the features (SegGPT sec. 3.2).
        """
        model = self.model
        prompts = encode_prompts(
            model, model.normalize(prompt_images)[None], model.normalize(prompt_paintings)[None, None], self.seg_type)
        return (model.denormalize(paint(model, model.normalize(images), prompts)[:, 0]),)


def seggpt_graph(model: SegGPT, prompts: int, seg_type: str = "instance", *, queries: int = 1, seed: int = 0) -> Graph:
    """The graph of a model for a number of prompts and queries of its own size, with random pictures as example."""
    height, width = model.img_size[0] // 2, model.img_size[1]
    generator = torch.Generator().manual_seed(seed)

    def pictures(count: int) -> Tensor:
        return torch.rand(count, 3, height, width, generator=generator) * 255

    names = ("prompt_images", "prompt_paintings", "images")
    inputs = dict(zip(names, (pictures(prompts), pictures(prompts), pictures(queries))))
    return Graph(SegGPTGraph(model, seg_type).eval(), inputs, ["paintings"])
