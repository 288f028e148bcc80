"""The pictures of training: what they show, how often, and that they reach TensorBoard's file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.utils.events import EventStorage, TensorboardXWriter

from seggpt.modeling import SegGPTTuner
from seggpt.modeling.training_pictures import SHOWN, episode_picture
from tests.seggpt.small_seggpt import small_model

SIZE = (128, 64)


def batch(count: int = 2) -> list[dict]:
    rng = np.random.default_rng(0)
    mask = torch.zeros(32, dtype=torch.uint8)
    mask[16:] = 1
    return [
        {
            "image": torch.from_numpy(rng.integers(0, 256, (3, *SIZE), np.uint8)),
            "target": torch.from_numpy(rng.integers(0, 256, (3, *SIZE), np.uint8)),
            "valid": torch.ones(3, *SIZE, dtype=torch.uint8),
            "mask": mask,
            "seg_type": 0,
        }
        for _ in range(count)
    ]


def test_the_picture_shows_what_is_hidden():
    inputs = batch(SHOWN + 2)
    images, targets, mask = (torch.stack([d[key] for d in inputs]) for key in ("image", "target", "mask"))
    painted = 255 - targets.float()
    picture = episode_picture(images, targets, mask, painted, 16)
    assert picture.shape == (3, SHOWN * 128, 4 * 64) and picture.dtype == torch.uint8
    second = picture[:, 128:256]
    assert torch.equal(second[:, :, :64], images[1])
    assert torch.equal(second[:, :64, 64:128], targets[1, :, :64]) and (second[:, 64:, 64:128] == 127).all()
    assert torch.equal(second[:, :, 128:192], 255 - targets[1])
    assert torch.equal(second[:, :, 192:], targets[1])


def test_one_picture_every_period_also_with_several_batches_a_step():
    model = small_model(vis_period=3).train()
    shown = []
    with EventStorage(0) as storage:
        for _ in range(7):
            for _ in range(2):
                model(batch())
            shown += [(name, step) for name, _, step in storage._vis_data]
            storage.clear_images()
            storage.step()
    assert shown == [("episodes", 0), ("episodes", 3), ("episodes", 6)]
    model(batch())  # outside of a training there is nowhere to put them


@pytest.mark.parametrize("tuning", [False, True])
def test_they_reach_the_file(tmp_path, tuning):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    if tuning:
        model = SegGPTTuner(model=small_model(), vis_period=1).train()
        inputs = [{key: d[key][:, :64] for key in ("image", "target", "valid")} for d in batch()]
    else:
        model, inputs = small_model(vis_period=1).train(), batch()
    with EventStorage(0) as storage:
        model(inputs)
        writer = TensorboardXWriter(str(tmp_path))
        writer.write()
        writer.close()
        assert not storage._vis_data
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    name = "prompt" if tuning else "episodes"
    assert events.Tags()["images"] == [name]
    image = events.Images(name)[0]
    assert (image.height, image.width) == (2 * 128, 4 * 64)
