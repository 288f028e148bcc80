"""OneFormer as a graph of tensors, for `segcore.export`.

Shapes:  H, W size of the image, Q queries, K classes (without "no object").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segcore.export import Graph

from .modeling.oneformer import OneFormer
from .tasks import INSTANCE, PANOPTIC, SEMANTIC, TASKS

# Where a file for any size is compared with the model, in units of padding: smallest, upright, wide, odd.
OTHERS = (((2, 2), PANOPTIC), ((6, 3), INSTANCE), ((3, 8), SEMANTIC), ((7, 5), PANOPTIC))


class OneFormerGraph(nn.Module):
    """One picture and the number of a task in, what the queries found out.

    The task embeddings are computed once, in fp32, and are constants of the file.
    """

    def __init__(self, model: OneFormer):
        super().__init__()
        self.model = model
        with torch.no_grad():
            self.register_buffer("task_embeddings", model.embed_tasks(TASKS))

    def forward(self, image: Tensor, task: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            image: (1, 3, H, W) float, 0..255, in the channel order of the config's INPUT.FORMAT.
            task: (1,) int64, its place in `oneformer.tasks.TASKS`.

        Returns:
            class logits (1, Q, K + 1) and mask logits (1, Q, H / 4, W / 4), as `OneFormer.predict_queries`.
        """
        model = self.model
        memory = model.sem_seg_head(model.backbone((image - model.pixel_mean) / model.pixel_std))
        output = model.sem_seg_head.predictor(memory, self.task_embeddings[task])
        return output.class_logits.float(), output.mask_logits.float()


def oneformer_graph(model: OneFormer, height: int, width: int, task: str = TASKS[0], *, seed: int = 0,
                    any_size: bool = False) -> Graph:
    """The graph of a model for pictures of one size, with a random picture as example.

    Args:
        any_size: leave the size open: any multiples of what the model pads to, from two of them on.

    Raises:
        ValueError: if the size is not a multiple of what the model pads to, or one of them alone and `any_size`.
    """
    unit, size = max(model.size_divisibility, 1), (height, width)
    if size != model.padded_size(size):
        raise ValueError(
            f"height and width must be multiples of {unit}, got {height}x{width}; "
            f"{'x'.join(map(str, model.padded_size(size)))} would do")
    if any_size and min(size) < 2 * unit:
        raise ValueError(
            f"a graph for any size starts from one of at least {2 * unit}x{2 * unit}, got {height}x{width}")

    def example(height: int, width: int, task: str) -> dict[str, Tensor]:
        image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 255
        return {"image": image, "task": torch.tensor([TASKS.index(task)])}

    module, outputs = OneFormerGraph(model).eval(), ["class_logits", "mask_logits"]
    if not any_size:
        return Graph(module, example(*size, task), outputs, others=[example(*size, each) for each in TASKS])
    free = {axis: unit * torch.export.Dim(name, min=2) for axis, name in ((2, "rows"), (3, "columns"))}
    others = [example(unit * rows, unit * columns, each) for (rows, columns), each in OTHERS]
    return Graph(module, example(*size, task), outputs, {"image": free}, others)
