"""The fast form: equal to the plain one, to the goldens, and to itself in other orders."""

from __future__ import annotations

import pytest
import torch

from seggpt.modeling import inpainting_loss
from seggpt.modeling.in_context import encode_prompts, paint
from tests.seggpt.small_seggpt import small_model

TOLERANCE = 1e-5


def pictures(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def plain(model, query, images, targets, seg_type):
    """`inpaint` on K stitched canvases; the first one's query half, as the released code answers."""
    k = len(images)
    canvas = torch.cat([images, query.expand(k, -1, -1, -1)], 2)
    target = torch.cat([targets, torch.zeros_like(targets)], 2)
    mask = torch.zeros(1, 32)
    mask[:, 16:] = 1
    out = model.inpaint(canvas, target, mask, torch.full((k,), seg_type), ensemble=True)
    return out[0, :, 64:]


@pytest.mark.parametrize("case, k, seg_type", [
    ("one_cls", 1, 0), ("one_ins", 1, 1), ("three_ens_cls", 3, 0), ("three_ens_ins", 3, 1)])
@pytest.mark.parametrize("attention", ["auto", "materialised", "widened"])
@torch.no_grad()
def test_goldens_through_the_fast_form(case, k, seg_type, attention, golden):
    model = small_model(attention=attention)
    images, targets = golden["inputs/inf_imgs"][:k], golden["inputs/inf_tgts"][:k]
    prompts = encode_prompts(model, images[None, :, :, :64], targets[None, None, :, :, :64], seg_type)
    # The goldens stack three different lower halves; with the ensemble all of them must be one query.
    queries = images[:1, :, 64:]
    assert k == 1 or torch.equal(images[:1, :, 64:].expand(k, -1, -1, -1), images[:, :, 64:])
    out = paint(model, queries, prompts, seam="first")[0, 0]
    assert (out - golden[f"d8/{case}/pred"][0, :, 64:]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("fast", [False, True])
def test_tuning_gradients(fast, model, golden):
    images, targets, valid = (golden[f"inputs/train_{k}"] for k in ("imgs", "tgts", "valid"))
    types = golden["inputs/train_seg_type"]
    image = images[:, :, :64].clone().requires_grad_()
    target = targets[:, :, :64].clone().requires_grad_()
    mask = (torch.arange(32) >= 16).float()[None]
    if fast:
        painted = []
        for i in (slice(0, 1), slice(1, 2)):
            prompts = encode_prompts(model, image[None, i], target[None, None, i], int(types[i]))
            painted.append(paint(model, images[i, :, 64:], prompts)[:, 0])
        out = torch.cat([torch.zeros_like(image), torch.cat(painted)], 2)
    else:
        canvas = torch.cat([image, images[:, :, 64:]], 2)
        out = model.inpaint(canvas, torch.cat([target, targets[:, :, 64:]], 2), mask, types)
    inpainting_loss(out, targets, mask, valid, skip_blank=False, eps=0).backward()
    for ours, name in ((image.grad, "img"), (target.grad, "tgt")):
        theirs = golden[f"d8/tune/grad_prompt_{name}"]
        assert theirs.abs().max() > 0
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()   # gradients are some 1e-6 large


@torch.no_grad()
def test_queries_times_prompts_equal_separate_calls(model):
    queries, images, targets = pictures(0, 3), pictures(1, 4), pictures(2, 4)
    prompts = encode_prompts(model, images[None], targets[None, None], 1)
    together = paint(model, queries, prompts, seam="first")
    for query, out in zip(queries, together[:, 0]):
        assert (out - plain(model, query, images, targets, 1)).abs().max() <= TOLERANCE


@torch.no_grad()
def test_prompt_sets_of_their_own_and_several_targets(model):
    queries, images, targets = pictures(0, 2), pictures(1, 2, 3), pictures(2, 2, 5, 3)
    together = paint(model, queries, encode_prompts(model, images, targets, 0), seam="first")
    assert together.shape == (2, 5, 3, 64, 64)
    for q in range(2):
        for p in range(5):
            alone = plain(model, queries[q], images[q], targets[q, p], 0)
            assert (together[q, p] - alone).abs().max() <= TOLERANCE


@torch.no_grad()
def test_order_of_prompts_does_not_matter(model):
    query, images, targets = pictures(0, 1), pictures(1, 4), pictures(2, 4)
    order = torch.tensor([2, 0, 3, 1])
    outs = [paint(model, query, encode_prompts(model, images[None, o], targets[None, None, o], 1))
            for o in (torch.arange(4), order)]
    assert (outs[0] - outs[1]).abs().max() <= 1e-6
    first = paint(model, query, encode_prompts(model, images[None], targets[None, None], 1), seam="first")
    assert (outs[0] - first)[..., 1:, :].abs().max() <= 1e-6      # the two differ in the first row only
    assert (outs[0] - first)[..., :1, :].abs().max() > 1e-3


@torch.no_grad()
def test_one_prompt_is_no_ensemble(model):
    query, images, targets = pictures(0, 1), pictures(1, 1), pictures(2, 1)
    canvas, target = torch.cat([images, query], 2), torch.cat([targets, targets], 2)
    mask = (torch.arange(32) >= 16).float()[None]
    with_, without = (model.inpaint(canvas, target, mask, torch.tensor([1]), e) for e in (True, False))
    assert torch.equal(with_, without)
    fast = paint(model, query, encode_prompts(model, images[None], targets[None, None], 1))
    assert (fast[0] - without[:, :, 64:]).abs().max() <= TOLERANCE


@torch.no_grad()
def test_trimming_the_last_block_is_exact(model):
    prompts = encode_prompts(model, pictures(1, 1, 3), pictures(2, 1, 1, 3), 1)
    trimmed, full = (paint(model, pictures(0, 2), prompts, trim_last=t) for t in (True, False))
    assert (trimmed - full).abs().max() <= 1e-6


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 3e-2), (torch.float16, 4e-3)])
@pytest.mark.parametrize("attention", ["auto", "materialised", "widened"])
@torch.no_grad()
def test_half_precision_weights(dtype, tolerance, attention):
    model = small_model(attention=attention)
    arguments = pictures(1, 1, 2), pictures(2, 1, 1, 2), 1
    exact = paint(model, pictures(0, 1), encode_prompts(model, *arguments))
    half = model.to(dtype)
    out = paint(half, pictures(0, 1), encode_prompts(half, *arguments))
    assert out.dtype == dtype
    assert (out.float() - exact).abs().max() <= tolerance


@torch.no_grad()
def test_autocast(model):
    arguments = pictures(1, 1, 2), pictures(2, 1, 1, 2), 1
    exact = paint(model, pictures(0, 1), encode_prompts(model, *arguments))
    with torch.autocast("cpu", torch.bfloat16):
        out = paint(model, pictures(0, 1), encode_prompts(model, *arguments))
    assert 0 < (out.float() - exact).abs().max() <= 1e-2


@torch.no_grad()
def test_no_graph_breaks(model):
    prompts = encode_prompts(model, pictures(1, 1, 2), pictures(2, 1, 1, 2), 1)
    graph = torch.compile(lambda q: paint(model, q, prompts), fullgraph=True, backend="eager")
    assert (graph(pictures(0, 1)) - paint(model, pictures(0, 1), prompts)).abs().max() <= TOLERANCE
    inputs = pictures(3, 1), pictures(4, 1)
    canvas, target = torch.cat(inputs, 2), torch.cat(inputs, 2)
    mask = (torch.arange(32) >= 16).float()[None]
    whole = torch.compile(model.inpaint, fullgraph=True, backend="eager")
    expected = model.inpaint(canvas, target, mask, torch.tensor([1]))
    assert (whole(canvas, target, mask, torch.tensor([1])) - expected).abs().max() <= TOLERANCE


@pytest.mark.slow
@torch.no_grad()
def test_compiled_code_gives_the_same_answer(model):
    prompts = encode_prompts(model, pictures(1, 1, 2), pictures(2, 1, 1, 2), 1)
    compiled = torch.compile(lambda q: paint(model, q, prompts), fullgraph=True)
    assert (compiled(pictures(0, 1)) - paint(model, pictures(0, 1), prompts)).abs().max() <= TOLERANCE


def test_wrong_shapes_are_refused(model):
    images, targets = pictures(0, 1, 2), pictures(1, 1, 1, 2)
    prompts = encode_prompts(model, images, targets, 1)
    with pytest.raises(ValueError, match="no prompt"):
        encode_prompts(model, images[:, :0], targets[:, :, :0], 1)
    with pytest.raises(ValueError, match="prompt targets"):
        encode_prompts(model, images, targets[:, :, :1], 1)
    with pytest.raises(ValueError, match="seg_type"):
        encode_prompts(model, images, targets, 2)
    with pytest.raises(ValueError, match="patches"):
        encode_prompts(model, images[..., :60], targets[..., :60], 1)
    with pytest.raises(ValueError, match="prompts' size"):
        paint(model, pictures(0, 1)[..., :32], prompts)
    with pytest.raises(ValueError, match="prompt sets"):
        paint(model, pictures(0, 3), encode_prompts(model, pictures(0, 2, 1), pictures(0, 2, 1, 1), 1))
    with pytest.raises(ValueError, match="seam"):
        paint(model, pictures(0, 1), prompts, seam="last")
    with pytest.raises(RuntimeError, match="eval"):
        paint(model.train(), pictures(0, 1), prompts)


@pytest.mark.parametrize("attention", ["auto", "materialised", "widened"])
@torch.no_grad()
def test_padding_is_never_looked_at(attention):
    model = small_model(attention=attention)
    query_padding = (torch.arange(16).view(1, 4, 4) % 4 >= 2).expand(1, 4, 4).reshape(1, 16)   # right half
    prompt_padding = (torch.arange(16).view(1, 1, 16) >= 12)   # last token row
    results = []
    for filler in (0.0, 5.0):
        query, images, targets = pictures(0, 1), pictures(1, 1, 1), pictures(2, 1, 2, 1)
        query[..., 32:] = filler
        images[..., 48:, :] = filler
        prompts = encode_prompts(model, images, targets, 1, prompt_padding)
        out = paint(model, query, prompts, padding=query_padding)
        results.append(out[..., 1:, :31])   # the convolution sees one pixel of padding beside and above
    assert (results[0] - results[1]).abs().max() <= 1e-6
    free = paint(model, query, encode_prompts(model, images, targets, 1))[..., 1:, :31]
    assert (results[0] - free).abs().max() > 1e-3
