"""SegGPT (arXiv:2304.03284): a plain ViT that paints the hidden part of a picture of examples.

A canvas stacks a prompt on top of a query. Two streams of it, the photograph and its painting with
the unknown part hidden, go through the first blocks apart and are then averaged; a small
convolutional decoder paints every pixel.

Shapes:  N canvases of (H, W) pixels (H = two pictures), patches of p x p pixels, L = H/p * W/p
         tokens, C channels, D decoder channels. Colours are ImageNet-normalised RGB.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segcore.registry import register_once
from seggpt.modeling.attention import FORMS
from seggpt.modeling.block import Block, LayerNorm2d
from seggpt.modeling.initialisation import INITIALISATIONS, TOKENS
from seggpt.modeling.loss import IMAGENET_MEAN, IMAGENET_STD, inpainting_loss
from seggpt.modeling.position import GridTables, absolute_positions, relative_positions
from seggpt.modeling.training_pictures import Gallery, episode_picture


class PatchEmbed(nn.Module):
    """One token per patch: (N, 3, H, W) -> (N, L, C)."""

    def __init__(self, patch_size: int, dim: int):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


@register_once(META_ARCH_REGISTRY)
class SegGPT(nn.Module):
    """The network, with the released checkpoint's parameter names.

    `inpaint` is the plain form for training and exactness; `seggpt.modeling.in_context` computes
    the same answer for many queries and prompts at a fraction of the cost.

    Args:
        img_size: (H, W) of the canvas that the relative tables are sized for; other sizes work and
            resize them.
        pretrain_img_size: side of the square that the position table was trained on.
        merge_block: index of the block after which the two streams are averaged.
        out_blocks: indices of the blocks that the decoder reads.
        attention: a name in `seggpt.modeling.attention.FORMS`, or "auto".
        use_checkpoint: recompute the blocks in the backward pass instead of storing them.
        loss_beta: see `inpainting_loss`.
        init: a name in `seggpt.modeling.initialisation.INITIALISATIONS`.
        vis_period: training steps between two pictures of episodes in the event storage; 0: none.
    """

    @configurable
    def __init__(self, *, img_size: Sequence[int] = (896, 448), pretrain_img_size: int = 224,
                 patch_size: int = 16, embed_dim: int = 1024, depth: int = 24, num_heads: int = 16,
                 mlp_ratio: float = 4.0, decoder_dim: int = 64, merge_block: int = 2,
                 out_blocks: Sequence[int] = (5, 11, 17, 23), drop_path_rate: float = 0.1,
                 attention: str = "auto", use_checkpoint: bool = False,
                 loss_beta: float = 0.01, init: str = "plain", vis_period: int = 0):
        super().__init__()
        _check_canvas_size(img_size, patch_size)
        _check_depths(depth, merge_block, out_blocks)
        if embed_dim % num_heads:
            raise ValueError(f"EMBED_DIM {embed_dim} is not a multiple of NUM_HEADS {num_heads}")
        if attention != "auto" and attention not in FORMS:
            raise ValueError(f"unknown ATTENTION {attention!r}; choose 'auto' or one of {sorted(FORMS)}")
        if init not in INITIALISATIONS:
            raise ValueError(f"unknown INIT {init!r}; choose one of {sorted(INITIALISATIONS)}")
        self.img_size = tuple(img_size)
        self.patch_size = patch_size
        self.merge_block = merge_block
        self.out_blocks = tuple(out_blocks)
        self.use_checkpoint = use_checkpoint
        self.loss_beta = loss_beta
        self.gallery = Gallery(vis_period)

        for name in TOKENS:
            setattr(self, name, nn.Parameter(torch.empty(1, 1, 1, embed_dim)))
        positions = (pretrain_img_size // patch_size) ** 2 + 1
        self.pos_embed = nn.Parameter(torch.empty(1, positions, embed_dim))
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        grid = (img_size[0] // patch_size, img_size[1] // patch_size)
        drop = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, grid, drop[i], attention) for i in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.decoder_embed = nn.Linear(embed_dim * len(out_blocks), patch_size**2 * decoder_dim)
        self.decoder_pred = nn.Sequential(
            nn.Conv2d(decoder_dim, decoder_dim, 3, padding=1), LayerNorm2d(decoder_dim), nn.GELU(),
            nn.Conv2d(decoder_dim, 3, 1))
        # Part of the trained function, not of the state: no checkpoint carries them.
        self.register_buffer("pixel_mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)
        INITIALISATIONS[init](self)

    @classmethod
    def from_config(cls, cfg) -> dict:
        c = cfg.MODEL.SEGGPT
        return {
            "img_size": c.IMG_SIZE,
            "pretrain_img_size": c.PRETRAIN_IMG_SIZE,
            "patch_size": c.PATCH_SIZE,
            "embed_dim": c.EMBED_DIM,
            "depth": c.DEPTH,
            "num_heads": c.NUM_HEADS,
            "mlp_ratio": c.MLP_RATIO,
            "decoder_dim": c.DECODER_DIM,
            "merge_block": c.MERGE_BLOCK,
            "out_blocks": c.OUT_BLOCKS,
            "drop_path_rate": c.DROP_PATH_RATE,
            "attention": c.ATTENTION,
            "use_checkpoint": c.USE_CHECKPOINT,
            "loss_beta": c.LOSS_BETA,
            "init": c.INIT,
            "vis_period": cfg.VIS_PERIOD,
        }

    # What `segcore.solver.layer_wise_settings` asks (Painter's groups).
    undecayed = ("pos_embed",)

    @property
    def max_depth(self) -> int:
        return len(self.blocks) + 1

    def parameter_depth(self, name: str) -> int:
        """0 at the input, i + 1 in block i, the most for the tokens, the last norm and the decoder."""
        if name == "pos_embed" or name.startswith("patch_embed."):
            return 0
        return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else self.max_depth

    @property
    def device(self) -> torch.device:
        return self.pos_embed.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pos_embed.dtype

    # ---- colours ----------------------------------------------------------------------------

    def normalize(self, pixels: Tensor) -> Tensor:
        """RGB 0..255, uint8 or float, (..., 3, H, W) -> ImageNet-normalised fp32."""
        return (pixels.float() / 255 - self.pixel_mean.float()) / self.pixel_std.float()

    def denormalize(self, colours: Tensor) -> Tensor:
        """Normalised colours (..., 3, H, W) -> RGB in fp32, clipped to 0..255."""
        rgb = (colours.float() * self.pixel_std.float() + self.pixel_mean.float()) * 255
        return rgb.clamp(0, 255)

    # ---- parts that the plain and the fast form share ---------------------------------------

    def tables(self, height: int, width: int) -> GridTables:
        """Position tables for a canvas of height x width pixels."""
        h, w = height // self.patch_size, width // self.patch_size
        relative = tuple(
            (relative_positions(b.attn.rel_pos_h, h), relative_positions(b.attn.rel_pos_w, w))
            for b in self.blocks)
        return GridTables(h, w, absolute_positions(self.pos_embed, h, w), relative)

    def type_tokens(self, seg_type: Tensor) -> Tensor:
        """(N,) of 0 (category) or 1 (instance) -> (N, 1, C)."""
        instance = (seg_type.reshape(-1, 1, 1) > 0.5)
        return torch.where(instance, self.type_token_ins[0], self.type_token_cls[0])

    def decode(self, latents: Tensor, width: int, halo: bool = False) -> Tensor:
        """Paint token rows: (N, rows * width, C * outputs) -> (N, 3, rows * p, width * p).

        With `halo` the first token row only lends its last pixel row to the convolution and is not
        painted.
        """
        p = self.patch_size
        canvas = self.decoder_embed(latents).unflatten(-1, (p, p, -1)).unflatten(1, (-1, width))
        canvas = canvas.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)
        if not halo:
            return self.decoder_pred(canvas)
        conv = self.decoder_pred[0]
        canvas = F.pad(canvas[:, :, p - 1:], (1, 1, 0, 1))
        return self.decoder_pred[1:](F.conv2d(canvas, conv.weight, conv.bias))

    # ---- the plain form ---------------------------------------------------------------------

    def inpaint(self, images: Tensor, targets: Tensor, mask: Tensor, seg_type: Tensor,
                ensemble: bool = False) -> Tensor:
        """Paint whole canvases (SegGPT sec. 3).

        Args:
            images, targets: (N, 3, H, W), normalised colours; what `mask` hides of the targets has
                no influence.
            mask: (N or 1, L), 1 = hidden from the network.
            seg_type: (N,) or (N, 1), 0 = category, 1 = instance.
            ensemble: average the query (lower) half's attention over the N canvases, which must then
                be N prompts for one query (sec. 3.2). Nothing to average when N is 1.

        Returns:
            (N, 3, H, W), normalised colours of the whole canvas.

        Raises:
            ValueError: if shapes disagree or do not fit the patch grid.
        """
        seg_type = _check_canvases(images, targets, mask, seg_type, self.patch_size, ensemble)
        n, tables = images.shape[0], self.tables(*images.shape[-2:])
        hidden = mask.to(self.dtype).unsqueeze(-1)
        x, y = self.patch_embed(images), self.patch_embed(targets)
        y = y * (1 - hidden) + self.mask_token[0] * hidden
        place = tables.position + self.type_tokens(seg_type)
        tokens = torch.cat([x + self.segment_token_x[0] + place, y + self.segment_token_y[0] + place])
        latents = []
        for i, block in enumerate(self.blocks):
            average = None
            if ensemble and n > 1:
                streams = 2 if i <= self.merge_block else 1
                average = _QueryAverage(streams)
            tokens = self._run(block, tokens, tables.relative[i], average)
            if i == self.merge_block:
                tokens = (tokens[:n] + tokens[n:]) * 0.5
            if i in self.out_blocks:
                latents.append(self.norm(tokens))
        return self.decode(torch.cat(latents, -1), tables.width)

    def _run(self, block: Block, tokens: Tensor, relative: tuple[Tensor, Tensor], average) -> Tensor:
        if self.use_checkpoint and self.training:
            return checkpoint(block, tokens, *relative, average, use_reentrant=False)
        return block(tokens, *relative, average)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """Detectron2's interface, on stitched canvases.

        Args:
            batched_inputs: one dict per canvas: "image" and "target" (3, H, W) RGB 0..255, "mask"
                (L,) 1 = hidden, "seg_type" 0 or 1, and in training optionally "valid" (3, H, W).

        Returns:
            In training {"loss_inpaint": scalar}; else per canvas {"painting": (3, H, W) RGB 0..255}.
        """
        def stack(key: str) -> Tensor:
            return torch.stack([torch.as_tensor(d[key]) for d in batched_inputs]).to(self.device)

        targets, mask = self.normalize(stack("target")), stack("mask")
        painted = self.inpaint(self.normalize(stack("image")), targets, mask, stack("seg_type"))
        if self.training:
            self.gallery.show("episodes", lambda: episode_picture(
                stack("image"), stack("target"), mask, self.denormalize(painted), self.patch_size))
            valid = stack("valid") if "valid" in batched_inputs[0] else None
            return {"loss_inpaint": inpainting_loss(
                painted, targets, mask, valid, patch=self.patch_size, beta=self.loss_beta)}
        return [{"painting": self.denormalize(p)} for p in painted]


class _QueryAverage:
    """Mean of the query half over the prompts, within each stream: (streams * N, L, C) -> the same."""

    def __init__(self, streams: int):
        self.streams = streams

    def __call__(self, x: Tensor) -> Tensor:
        prompt, query = x.chunk(2, dim=1)
        query = query.unflatten(0, (self.streams, -1))
        query = query.mean(1, keepdim=True).expand_as(query)
        return torch.cat([prompt, query.flatten(0, 1)], 1)


def _check_canvas_size(img_size: Sequence[int], patch: int) -> None:
    if len(img_size) != 2 or img_size[0] % (2 * patch) or img_size[1] % patch:
        raise ValueError(
            f"IMG_SIZE is (height, width) of the canvas; height must be a multiple of {2 * patch} "
            f"(two pictures of {patch}-pixel patches) and width of {patch}; got {tuple(img_size)}")


def _check_depths(depth: int, merge_block: int, out_blocks: Sequence[int]) -> None:
    if not 0 <= merge_block < depth:
        raise ValueError(f"MERGE_BLOCK {merge_block} is not one of the {depth} blocks")
    outs = list(out_blocks)
    if outs != sorted(set(outs)) or not outs or outs[0] < merge_block or outs[-1] >= depth:
        raise ValueError(
            f"OUT_BLOCKS must rise from MERGE_BLOCK ({merge_block}) to at most {depth - 1}; got {outs}")


def _check_canvases(images, targets, mask, seg_type, patch, ensemble) -> Tensor:
    """Raise ValueError for canvases that do not fit together; return seg_type as (N,)."""
    if images.dim() != 4 or images.shape[1] != 3 or images.shape != targets.shape:
        raise ValueError(
            "images and targets must both be (N, 3, H, W); "
            f"got {tuple(images.shape)} and {tuple(targets.shape)}")
    n, _, height, width = images.shape
    if height % patch or width % patch or (ensemble and height % (2 * patch)):
        raise ValueError(
            f"a canvas of {height}x{width} pixels does not divide into {patch}-pixel patches"
            + (" in two halves" if ensemble else ""))
    length = (height // patch) * (width // patch)
    if mask.dim() != 2 or mask.shape[0] not in (1, n) or mask.shape[1] != length:
        raise ValueError(f"mask must be ({n} or 1, {length}), one value per patch; got {tuple(mask.shape)}")
    if not isinstance(seg_type, Tensor) or seg_type.numel() != n:
        raise ValueError(
            f"seg_type must be a tensor of {n} values, 0 for category or 1 for instance; got {seg_type!r}")
    return seg_type.reshape(n)
