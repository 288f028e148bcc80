"""Task-conditioned masked-attention decoder (OneFormer, arXiv:2211.06220, sec. 3.3;
masked attention: Mask2Former, arXiv:2112.01527, eq. 2).

Shapes:  B images, Q queries (the task token is the last),
         C channels, K classes (without "no object"), h, w a level's size,
         H, W the stride-4 size of masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segcore.ops import row_products

from .layers import MLP, CrossAttentionLayer, FFNLayer, SelfAttentionLayer, xavier_init_matrices
from .position_encoding import sine_position_encoding
from .query_initialization import QueryInitializer

NUM_LEVELS = 3


@dataclass
class DecoderMemory:
    """What the queries of any task attend to, projected; one row per image.

    Attributes:
        mask_features: (B, mask_dim, H, W) per-pixel embeddings.
        sizes: (h, w) of each level.
        level_features: (B, mask_dim, h, w) per level: `mask_features` resized. A mask is linear in them,
            so that resized features give resized mask logits without those at full size.
        layers: keys and values (B, heads, S, C / heads) of each layer.
    """

    mask_features: Tensor
    level_features: list[Tensor]
    sizes: list[tuple[int, int]]
    layers: list[tuple[Tensor, Tensor]]

    def select(self, images: list[int]) -> DecoderMemory:
        """The memory of some of the images; itself when all are asked for, in order."""
        if images == list(range(len(self.mask_features))):
            return self
        return DecoderMemory(
            self.mask_features[images],
            [x[images] for x in self.level_features],
            self.sizes,
            [(k[images], v[images]) for k, v in self.layers],
        )


@dataclass
class DecoderOutput:
    """What the decoder predicts.

    Attributes:
        class_logits: (B, Q, K + 1).
        mask_logits: (B, Q, H, W), without gradient: a loss takes those of the queries it needs from
            `mask_embeddings` and `mask_features`.
        queries: (B, Q, C) before the masked layers; the contrastive loss ties them to the text.
        auxiliary: (class_logits, mask_logits) after each earlier layer, when they were asked for.
        mask_embeddings: (B, Q, mask_dim) of each prediction, the last one first, then those of `auxiliary`.
        mask_features: (B, mask_dim, H, W); mask_logits is their product.
    """

    class_logits: Tensor
    mask_logits: Tensor
    queries: Tensor
    mask_embeddings: list[Tensor]
    mask_features: Tensor
    auxiliary: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class OneFormerDecoder(nn.Module):
    """Object queries, started from the task token, attend to the masks they predict."""

    @configurable
    def __init__(
        self,
        *,
        dim: int,
        mask_dim: int,
        num_classes: int,
        num_queries: int,
        num_heads: int,
        num_layers: int,
        feedforward_dim: int,
        query_init_layers: int,
        query_init_dropout: float,
        use_task_norm: bool,
        use_checkpoint: bool = False,
    ):
        """`num_layers` masked layers predict `num_layers + 1` times.

        Raises:
            ValueError: for fewer than one class or query.
        """
        super().__init__()
        if num_classes < 1 or num_queries < 1:
            raise ValueError(f"need at least 1 class and 1 query, got {num_classes} and {num_queries}")
        self.use_task_norm, self.use_checkpoint = use_task_norm, use_checkpoint
        self.class_transformer = QueryInitializer(
            dim=dim,
            num_layers=query_init_layers,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            dropout=query_init_dropout,
        )
        layers = range(num_layers)
        self.transformer_self_attention_layers = nn.ModuleList(
            SelfAttentionLayer(dim, num_heads) for _ in layers
        )
        self.transformer_cross_attention_layers = nn.ModuleList(
            CrossAttentionLayer(dim, num_heads) for _ in layers
        )
        self.transformer_ffn_layers = nn.ModuleList(FFNLayer(dim, feedforward_dim) for _ in layers)
        for stack in (
            self.transformer_self_attention_layers,
            self.transformer_cross_attention_layers,
            self.transformer_ffn_layers,
        ):
            xavier_init_matrices(stack)
        self.decoder_norm = nn.LayerNorm(dim)
        self.query_embed = nn.Embedding(num_queries, dim)
        self.level_embed = nn.Embedding(NUM_LEVELS, dim)
        self.class_input_proj = nn.Conv2d(mask_dim, dim, 1)
        weight_init.c2_xavier_fill(self.class_input_proj)
        self.class_embed = nn.Linear(dim, num_classes + 1)
        self.mask_embed = MLP(dim, dim, mask_dim, 3)

    @classmethod
    def from_config(cls, cfg):
        model, head = cfg.MODEL.ONE_FORMER, cfg.MODEL.SEM_SEG_HEAD
        if head.CONVS_DIM != model.HIDDEN_DIM:
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.CONVS_DIM ({head.CONVS_DIM}) must equal "
                f"MODEL.ONE_FORMER.HIDDEN_DIM ({model.HIDDEN_DIM})"
            )
        return {
            "dim": model.HIDDEN_DIM,
            "mask_dim": head.MASK_DIM,
            "num_classes": head.NUM_CLASSES,
            "num_queries": model.NUM_OBJECT_QUERIES,
            "num_heads": model.NHEADS,
            "num_layers": model.DEC_LAYERS - 1,
            "feedforward_dim": model.DIM_FEEDFORWARD,
            "query_init_layers": model.CLASS_DEC_LAYERS,
            "query_init_dropout": model.DROPOUT,
            "use_task_norm": model.USE_TASK_NORM,
            "use_checkpoint": model.CHECKPOINT_DECODER,
        }

    def prepare(self, mask_features: Tensor, maps: list[Tensor]) -> DecoderMemory:
        """Project what the queries attend to, once for all tasks.

        Args:
            mask_features: (B, mask_dim, H, W) per-pixel embeddings.
            maps: NUM_LEVELS maps (B, C, h, w), coarsest first.
        """
        sizes = [tuple(x.shape[-2:]) for x in maps]
        level_features = [_resize(mask_features.detach(), size) for size in sizes]
        layers: dict[int, tuple[Tensor, Tensor]] = {}
        # The finest level first: what is projected is at its largest while little else is held.
        for level in reversed(range(NUM_LEVELS)):
            key, value = self._level_memory(maps[level], level)
            for i in range(level, len(self.transformer_cross_attention_layers), NUM_LEVELS):
                attention = self.transformer_cross_attention_layers[i].multihead_attn
                layers[i] = attention.project_keys(key), attention.project_values(value)
            del key, value
        return DecoderMemory(mask_features, level_features, sizes, [layers[i] for i in sorted(layers)])

    def _level_memory(self, x: Tensor, level: int) -> tuple[Tensor, Tensor]:
        """A level's keys and values before projection, (B, h * w, C) each."""
        value = x.flatten(2).transpose(1, 2) + self.level_embed.weight[level]
        position = sine_position_encoding(*x.shape[2:], x.shape[1], x.device).to(x.dtype)
        return value + position.flatten(2).transpose(1, 2), value

    def first_queries(
        self, mask_features: Tensor, turns: Sequence[tuple[Sequence[int], Tensor]]
    ) -> list[Tensor]:
        """The queries before the masked layers.

        Args:
            mask_features: (B, mask_dim, H, W) per-pixel embeddings.
            turns: for each, n of the images and for each of them one output of the task MLP, (n, C).

        Returns:
            (n, Q, C) for each turn; the last query is the task token.
        """
        position = self.query_embed.weight
        tasks = [self.decoder_norm(task) if self.use_task_norm else task for _, task in turns]
        tasks = [task.to(position.dtype) for task in tasks]
        asked = [(rows, task) for (rows, _), task in zip(turns, tasks, strict=True)]
        found = self.class_transformer(self.class_input_proj(mask_features), position[:-1], asked)
        return [torch.cat((objects, task[:, None]), dim=1) for objects, task in zip(found, tasks, strict=True)]

    def forward(self, memory: DecoderMemory, task: Tensor, *, auxiliary: bool = False) -> DecoderOutput:
        """All of the decoder for one task of each image.

        Args:
            memory: of `prepare`.
            task: (B, C) output of the task MLP.
            auxiliary: also return the predictions before the last.
        """
        (queries,) = self.first_queries(memory.mask_features, [(range(len(task)), task)])
        return self.decode(memory, queries, auxiliary=auxiliary)

    def decode(self, memory: DecoderMemory, queries: Tensor, *, auxiliary: bool = False) -> DecoderOutput:
        """The masked layers, from (B, Q, C) `first_queries`; the rest as for `forward`."""
        x, predictions, embeddings = queries, [], []
        for i in range(len(self.transformer_ffn_layers)):
            level, x_norm = i % NUM_LEVELS, self.decoder_norm(x)
            embedding = self.mask_embed(x_norm)
            if auxiliary:
                mask_logits = _mask_logits(embedding, memory.mask_features)
                predictions.append((self.class_embed(x_norm), mask_logits))
                embeddings.append(embedding)
                mask = attention_mask(_resize(mask_logits, memory.sizes[level]))
            else:
                mask = attention_mask(_mask_logits(embedding, memory.level_features[level]))
            if self.use_checkpoint and self.training:
                x = checkpoint(self._layer, i, x, *memory.layers[i], mask, use_reentrant=False)
            else:
                x = self._layer(i, x, *memory.layers[i], mask)
        x_norm = self.decoder_norm(x)
        embedding = self.mask_embed(x_norm)
        return DecoderOutput(
            self.class_embed(x_norm),
            _mask_logits(embedding, memory.mask_features),
            queries,
            [embedding, *embeddings],
            memory.mask_features,
            predictions,
        )

    def _layer(self, i: int, x: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        position = self.query_embed.weight
        x = self.transformer_cross_attention_layers[i](x, position, key, value, mask)
        x = self.transformer_self_attention_layers[i](x, position)
        return self.transformer_ffn_layers[i](x)


@torch.no_grad()
def _mask_logits(embedding: Tensor, mask_features: Tensor) -> Tensor:
    tokens = mask_features.flatten(2).mT
    return row_products(embedding, tokens).unflatten(2, mask_features.shape[2:])


@torch.no_grad()
def attention_mask(mask_logits: Tensor) -> Tensor:
    """Where each query may look at a level: (B, Q, h, w) logits of its size -> (B, 1, Q, h * w) bool.

    True inside the predicted mask; a query whose mask is empty looks everywhere.
    """
    inside = mask_logits.sigmoid().flatten(2) >= 0.5
    return (inside | ~inside.any(dim=2, keepdim=True))[:, None]


def _resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
