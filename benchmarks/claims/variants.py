"""OneFormer without one of its parts, for the ablations; each is a meta-architecture of its own."""

from __future__ import annotations

from collections.abc import Sequence

from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from oneformer.modeling.oneformer import OneFormer
from oneformer.tasks import PANOPTIC


@META_ARCH_REGISTRY.register()
class OneFormerWithoutTask(OneFormer):
    """Never told the task: every image is decoded as if panoptic had been asked.

    Targets, texts and post-processing still follow the task that was drawn.
    """

    def embed_tasks(self, tasks: Sequence[str]) -> Tensor:
        return super().embed_tasks([PANOPTIC] * len(tasks))


class LearnedQueries(nn.Module):
    """Queries that start from learned vectors, drawn from N(0, 1), whatever the image and the task."""

    def __init__(self, num_queries: int, dim: int):
        super().__init__()
        self.start = nn.Embedding(num_queries, dim)

    def forward(
        self, features: Tensor, query_embed: Tensor, turns: Sequence[tuple[Sequence[int], Tensor]]
    ) -> list[Tensor]:
        """(n, Q - 1, C) for each turn, as `QueryInitializer` gives them."""
        return [self.start.weight.expand(len(rows), -1, -1) for rows, _ in turns]


@META_ARCH_REGISTRY.register()
class OneFormerLearnedQueries(OneFormer):
    """The object queries do not start from the task token; the token itself is still the last query."""

    @classmethod
    def from_config(cls, cfg):
        parts = super().from_config(cfg)
        model = cfg.MODEL.ONE_FORMER
        queries = LearnedQueries(model.NUM_OBJECT_QUERIES - 1, model.HIDDEN_DIM)
        parts["sem_seg_head"].predictor.class_transformer = queries
        return parts
