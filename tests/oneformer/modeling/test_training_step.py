"""What a training step may not do: expand masks, wait for the device, compute what the losses do not need."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from oneformer.modeling.points import TargetMasks, sample_logits, uncertain_points
from segcore.masks import LayeredMasks
from tests.oneformer.modeling.compact import compact_model, training_input
from tests.synchronising import WaitRecorder


def test_no_wait_but_the_matching():
    """Decoders, matching costs and losses, backward included; only `finish` may look at the costs."""
    model = compact_model().train()
    batch = [training_input(40, 50, [0, 2], "panoptic", 8), training_input(50, 40, [3], "instance", 8, seed=1)]
    texts = model._texts(batch, 12)   # token ids are on the CPU whatever the device
    images, targets = model._prepare_images(batch), model._targets(batch)
    finish = model.criterion.matcher.finish
    recorder = WaitRecorder()

    def unrecorded(pending):
        found = list(recorder.found)
        matches = finish(pending)
        recorder.found[:] = found
        return matches

    model.criterion.matcher.finish = unrecorded
    with recorder:
        memory = model.sem_seg_head(model.backbone(images.tensor))
        output = model.sem_seg_head.predictor(memory, model.embed_tasks(["panoptic", "instance"]), auxiliary=True)
        pending = model.criterion.match(output, targets, images.tensor.shape[-2:])
        losses = model.criterion(output, pending, texts)
        sum(losses.values()).backward()
    assert recorder.found == []
    with recorder:
        torch.ones(3).nonzero()
    assert len(recorder.found) == 1   # it does see them


@pytest.mark.parametrize("layers", [1, 3])
def test_masks_at_points_are_grid_samples(layers):
    """By number and corner as by bilinear sampling of the padded float masks, borders included."""
    generator = torch.Generator().manual_seed(layers)
    canvas, masks = (12, 17), []
    for size, count in (((12, 10), 4), ((9, 17), 0), ((7, 5), 3)):
        maps = torch.randint(0, count + 1, (layers, *size), generator=generator, dtype=torch.uint8)
        masks.append(LayeredMasks(maps, torch.randint(0, layers, (count,), generator=generator), torch.arange(count)))
    ours = TargetMasks(masks, canvas)
    dense = torch.cat([F.pad(m.tensor.float(), (0, 17 - m.shape[2], 0, 12 - m.shape[1])) for m in masks])
    target = torch.tensor([6, 0, 3, 3, 5])
    points = torch.rand(5, 200, 2, generator=generator)
    points[:, :4] = torch.tensor([[0, 0], [1, 1], [0, 1], [1, 0]]).float()
    expected = sample_logits(dense[target][:, None], points)[:, 0]
    torch.testing.assert_close(ours.at_points(target, points), expected, atol=1e-5, rtol=0)
    for image, rows in ((0, slice(0, 4)), (1, slice(4, 4)), (2, slice(4, 7))):
        shared = sample_logits(dense[None, rows], points[:1])[0]
        torch.testing.assert_close(ours.at_shared_points(image, points[0]), shared, atol=1e-5, rtol=0)


def test_uncertain_points_are_the_nearest_to_zero():
    generator = torch.Generator().manual_seed(0)
    logits, candidates = torch.randn(3, 8, 8, generator=generator), torch.rand(3, 60, 2, generator=generator)
    others = torch.rand(3, 5, 2, generator=generator)
    points = uncertain_points(logits, candidates, others, 20)
    assert points.shape == (3, 25, 2) and torch.equal(points[:, 20:], others)
    certainty = sample_logits(logits[:, None], candidates)[:, 0].abs()
    limit = certainty.sort(dim=1).values[:, 19]
    assert (sample_logits(logits[:, None], points[:, :20])[:, 0].abs().amax(1) <= limit).all()


def test_layered_and_dense_masks_give_the_same_losses():
    batch = [training_input(40, 50, [0, 2], "panoptic", 8), training_input(50, 40, [3], "instance", 8, seed=1)]
    apart = []
    for x in batch:   # overlapping rectangles: a layer each, in a map of another size than one layer
        masks = LayeredMasks.from_tensor(x["instances"].gt_masks)
        instances = type(x["instances"])(x["instances"].image_size, gt_classes=x["instances"].gt_classes)
        number = 3 + masks.layer
        instances.gt_masks = LayeredMasks(masks.maps * number.byte()[:, None, None], masks.layer, number)
        apart.append({**x, "instances": instances})
    losses = []
    for inputs in (batch, apart):
        torch.manual_seed(0)
        losses.append({k: v.item() for k, v in compact_model().train()(inputs).items()})
    assert losses[0] == losses[1]
