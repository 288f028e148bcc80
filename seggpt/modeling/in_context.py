"""Many queries against many prompts: what `SegGPT.inpaint` computes, without what is computed twice.

All of it is exact; nothing is approximated or dropped that the answer depends on:

* a query's tokens are equal under all of its prompts (feature ensemble), so they are stored once;
* the first blocks of the target stream see only prompts and mask tokens, so they run once per set of
  prompts (`encode_prompts`), and those of the image stream see no target, so several targets
  (objects, classes) of the same prompt images share them;
* the decoder paints the query half only, with one token row of the prompts for its convolution;
* of the last block the prompts need that one row only.

Prompt-image features beyond the patch embedding cannot be cached: prompt tokens attend to the query.

Shapes:  Q queries, K prompts, P targets per prompt image (one answer each), S prompt sets (1, shared
         by all queries, or Q), (h, w) pixels of one picture, l tokens of one picture, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seggpt.modeling.attention import HIDE
from seggpt.modeling.position import GridTables
from seggpt.modeling.seggpt import SegGPT


@dataclass(frozen=True)
class PromptFeatures:
    """A prompt set as the network has it before any query is known; valid for one model's weights.

    Attributes:
        tables: positions of the stitched canvas.
        seg_type: 0 = category, 1 = instance.
        image: (S, K, l, C), prompt photographs, embedded and placed.
        target: (S, P, K, l, C), target stream after the merge block, prompt half.
        query_target: (S, P, l, C), the same, query half (only mask tokens went in).
        padding: (S, K, l), true where a token of a prompt is padding only; None when none is.
    """

    tables: GridTables
    seg_type: int
    image: Tensor
    target: Tensor
    query_target: Tensor
    padding: Tensor | None = None


def encode_prompts(model: SegGPT, images: Tensor, targets: Tensor, seg_type: int,
                   padding: Tensor | None = None) -> PromptFeatures:
    """Run everything that does not depend on a query.

    Args:
        images: (S, K, 3, h, w), normalised prompt photographs.
        targets: (S, P, K, 3, h, w), their paintings, normalised likewise.
        seg_type: 0 = category, 1 = instance.
        padding: (S, K, l) bool, tokens that nothing shall attend to.

    Raises:
        ValueError: if the shapes disagree or do not fit the patch grid, or seg_type is neither.
    """
    _check_prompts(images, targets, seg_type, model.patch_size)
    (sets, count), (height, width) = images.shape[:2], images.shape[-2:]
    objects = targets.shape[1]
    tables = model.tables(2 * height, width)
    place_prompt, place_query = _places(model, tables, seg_type)

    image = model.patch_embed(images.flatten(0, 1)) + model.segment_token_x[0] + place_prompt
    target = model.patch_embed(targets.flatten(0, 2)) + model.segment_token_y[0] + place_prompt
    target = target.unflatten(0, (sets * objects, count))
    hidden = model.mask_token[0] + model.segment_token_y[0] + place_query
    query = hidden.expand(sets * objects, -1, -1)
    bias = _key_bias(padding, None, sets, objects, target)
    for i in range(model.merge_block + 1):
        target, query = model.blocks[i].forward_halves(target, query, *tables.relative[i], key_bias=bias)
    return PromptFeatures(
        tables, seg_type, image.unflatten(0, (sets, count)),
        target.unflatten(0, (sets, objects)), query.unflatten(0, (sets, objects)), padding)


def paint(model: SegGPT, queries: Tensor, prompts: PromptFeatures, *, seam: str = "mean",
          trim_last: bool = True, padding: Tensor | None = None,
          targets_at_once: int | None = None) -> Tensor:
    """Paint each query under each target of the prompts, averaging over the prompts (feature ensemble).

    Args:
        queries: (Q, 3, h, w), normalised; of the prompts' size.
        seam: the decoder's convolution looks one pixel row into the prompt above. "mean" shows it the
            average prompt, so that the order of prompts has no influence; "first" the first prompt,
            as the released code does (the first pixel row of the answer then depends on the order).
        padding: (Q, l) bool, query tokens that nothing shall attend to. The cached target stream
            does not know them: there they are mask tokens like the rest of the query half.
        targets_at_once: bounds memory where P is large; None takes all P together.
        trim_last: skip what the answer does not need of the last block; False only to compare cost.

    Returns:
        (Q, P, 3, h, w), normalised colours.

    Raises:
        ValueError: if sizes or the number of prompt sets do not fit the queries; RuntimeError in
            training mode, where stochastic depth would treat the halves apart.
    """
    if model.training:
        raise RuntimeError("paint is for inference and prompt tuning: call model.eval() first")
    _check_queries(queries, prompts, model.patch_size, seam)
    prompt, query = _image_stream(model, queries, prompts, padding)
    step = targets_at_once or prompts.target.shape[1]
    painted = [
        _paint_targets(model, prompt, query, target, query_target, prompts, padding, seam, trim_last)
        for target, query_target in zip(prompts.target.split(step, 1), prompts.query_target.split(step, 1))]
    return torch.cat(painted, 1)


def _paint_targets(model: SegGPT, prompt: Tensor, query: Tensor, target: Tensor, query_target: Tensor,
                   prompts: PromptFeatures, padding: Tensor | None, seam: str, trim_last: bool) -> Tensor:
    """The blocks after the merge, and the decoder: (Q, P, 3, h, w) for these P targets."""
    count, objects, tables = query.shape[0], target.shape[1], prompts.tables
    # (Q, P, ...): every query meets every target of its prompt set
    prompt = (prompt[:, None] + target).mul(0.5).flatten(0, 1)
    query = (query[:, None] + query_target).mul(0.5).flatten(0, 1)
    bias = _key_bias(prompts.padding, padding, count, objects, prompt)
    latents, last = [], model.out_blocks[-1]
    for i in range(model.merge_block, last + 1):
        if i > model.merge_block:
            trim = trim_last and i == last
            prompt, query = model.blocks[i].forward_halves(prompt, query, *tables.relative[i], trim, bias)
        if i in model.out_blocks:
            border = model.norm(prompt[:, :, -tables.width:])
            border = border.mean(1) if seam == "mean" else border[:, 0]
            latents.append(torch.cat([border, model.norm(query)], 1))
    painted = model.decode(torch.cat(latents, -1), tables.width, halo=True)
    return painted.unflatten(0, (count, objects))


def _image_stream(model: SegGPT, queries: Tensor, prompts: PromptFeatures,
                  padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """First blocks of the image stream: prompt (Q, K, l, C) and query (Q, l, C) tokens."""
    _, place = _places(model, prompts.tables, prompts.seg_type)
    query = model.patch_embed(queries) + model.segment_token_x[0] + place
    prompt = prompts.image.expand(queries.shape[0], -1, -1, -1)
    bias = _key_bias(prompts.padding, padding, queries.shape[0], 1, prompt)
    for i in range(model.merge_block + 1):
        relative = prompts.tables.relative[i]
        prompt, query = model.blocks[i].forward_halves(prompt, query, *relative, key_bias=bias)
    return prompt, query


def _key_bias(prompt_padding: Tensor | None, query_padding: Tensor | None, count: int, objects: int,
              prompt: Tensor) -> Tensor | None:
    """(count * objects, K, 2 * l) that hides padding, for prompts (..., K, l, C); None without any."""
    if prompt_padding is None and query_padding is None:
        return None
    k, half = prompt.shape[-3:-1]
    upper = prompt.new_zeros(1, k, half, dtype=torch.bool) if prompt_padding is None else prompt_padding
    lower = prompt.new_zeros(1, half, dtype=torch.bool) if query_padding is None else query_padding
    both = torch.cat([upper.expand(count, -1, -1), lower[:, None].expand(count, k, -1)], -1)
    bias = torch.zeros(both.shape, dtype=prompt.dtype, device=prompt.device).masked_fill(both, HIDE)
    return bias.repeat_interleave(objects, 0)


def _places(model: SegGPT, tables: GridTables, seg_type: int) -> tuple[Tensor, Tensor]:
    """What is added to every token of the prompt and of the query half: (1, l, C) each."""
    token = model.type_token_ins[0] if seg_type else model.type_token_cls[0]
    upper, lower = tables.position.chunk(2, dim=1)
    return upper + token, lower + token


def _check_prompts(images: Tensor, targets: Tensor, seg_type: int, patch: int) -> None:
    if images.dim() != 5 or images.shape[2] != 3:
        raise ValueError(f"prompt images must be (S, K, 3, h, w); got {tuple(images.shape)}")
    expected = (images.shape[0], "P", images.shape[1], *images.shape[2:])
    if targets.dim() != 6 or (targets.shape[0], *targets.shape[2:]) != (expected[0], *expected[2:]):
        raise ValueError(f"prompt targets must be {expected} for these images; got {tuple(targets.shape)}")
    if 0 in targets.shape:
        raise ValueError(f"there is no prompt: images {tuple(images.shape)}, targets {tuple(targets.shape)}")
    if images.shape[3] % patch or images.shape[4] % patch:
        raise ValueError(f"prompts of {images.shape[3]}x{images.shape[4]} pixels do not divide into "
                         f"{patch}-pixel patches; resize them")
    if seg_type not in (0, 1):
        raise ValueError(f"seg_type must be 0 (category) or 1 (instance); got {seg_type!r}")


def _check_queries(queries: Tensor, prompts: PromptFeatures, patch: int, seam: str) -> None:
    size = (prompts.tables.height // 2 * patch, prompts.tables.width * patch)
    if queries.dim() != 4 or queries.shape[1] != 3 or tuple(queries.shape[2:]) != size:
        raise ValueError(f"queries must be (Q, 3, {size[0]}, {size[1]}), the prompts' size; "
                         f"got {tuple(queries.shape)}")
    sets = prompts.image.shape[0]
    if sets not in (1, queries.shape[0]):
        raise ValueError(f"{sets} prompt sets for {queries.shape[0]} queries; give one set for all of "
                         "them or one each")
    if seam not in ("mean", "first"):
        raise ValueError(f"seam must be 'mean' or 'first'; got {seam!r}")
