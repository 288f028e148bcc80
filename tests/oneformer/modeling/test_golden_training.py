"""Losses, matching and gradients of one training step against the official model's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances

import oneformer.modeling.criterion as criterion
from oneformer.data.text import unique_texts
from oneformer.data.tokenizer import Tokenizer
from tests.oneformer.modeling.golden import Golden, config, fill_weights

# Adding a constant to every key changes no softmax: this gradient is exactly 0,
# the golden holds rounding noise.
NO_GRADIENT = "sem_seg_head.predictor.class_input_proj.bias"


def r2_points(*shape, **_):
    """The R2 sequence, in place of random points: the same for every row, whatever the order of calls."""
    shape = shape[0] if len(shape) == 1 else shape
    golden_ratio = 1.32471795724474602596
    index = torch.arange(1, shape[-2] + 1, dtype=torch.float64)
    points = torch.stack(((0.5 + index / golden_ratio) % 1, (0.5 + index / golden_ratio**2) % 1), dim=-1)
    return points.float().expand(*shape).clone()


def training_input(golden, i):
    shape = golden[f"in{i}.masks_shape"].tolist()
    instances = Instances(tuple(shape[1:]))
    instances.gt_classes = torch.from_numpy(golden[f"in{i}.classes"])
    masks = np.unpackbits(golden[f"in{i}.masks_packed"], axis=-1)[..., : shape[2]]
    instances.gt_masks = torch.from_numpy(masks.astype(bool))
    unique, index = unique_texts(golden.json(f"in{i}.text"))
    return {
        "image": torch.from_numpy(golden[f"in{i}.image"]),
        "task": str(golden[f"in{i}.task"]).split()[-1],
        "instances": instances,
        "text_tokens": Tokenizer()(unique),
        "text_index": torch.tensor(index),
    }


@pytest.mark.parametrize(
    "file, name",
    [
        ("train_ade20k_R50_fan_importance", "ade20k/oneformer_r50"),
        ("train_ade20k_R50_fan_uniform", "ade20k/oneformer_r50"),
        ("train_ade20k_swin_tiny_fan_importance", "ade20k/oneformer_swin_t"),
    ],
)
def test_training_step(file, name, spec_dir, monkeypatch):
    golden = Golden(spec_dir / "oneformer" / "golden" / f"{file}.npz")
    no_dropout = ["MODEL.ONE_FORMER.DROPOUT", 0.0, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DROPOUT", 0.0]
    model = build_model(config(name, *no_dropout, "MODEL.SWIN.DROP_PATH_RATE", 0.0)).train()
    fill_weights(model, spec_dir)
    matches = []
    finish = model.criterion.matcher.finish
    monkeypatch.setattr(
        model.criterion.matcher, "finish", lambda *args: matches.append(finish(*args)) or matches[0]
    )
    monkeypatch.setattr(torch, "rand", r2_points)
    if golden["sampler"] == "uniform":
        num_points = model.criterion.num_points
        monkeypatch.setattr(
            criterion, "uncertain_points", lambda logits, *_: r2_points(len(logits), num_points, 2)
        )
    batch = [training_input(golden, i) for i in range(2)]
    losses = model(batch)

    expected = golden.json("losses_weighted")
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        assert losses[key].item() == pytest.approx(value, rel=1e-4, abs=1e-6), key
    first = [0, len(batch[0]["instances"])]
    for layer, images in enumerate(golden.json("match_indices")):
        ours = set(zip(*(part[layer].tolist() for part in matches[0])))
        theirs = {
            (image, query, first[image] + target)
            for image, pairs in enumerate(images)
            for query, target in zip(*pairs)
        }
        assert ours == theirs, layer

    sum(losses.values()).backward()
    errors = []
    for key, (norm, *_) in golden.json("grads").items():
        if key != NO_GRADIENT:
            ours = model.get_parameter(key).grad.double().norm().item()
            errors.append(abs(ours - norm) / norm)
    # float32 against float64 of the official model: median 1e-5, 99th percentile 3e-4
    assert np.median(errors) < 3e-5 and np.quantile(errors, 0.99) < 1e-3 and max(errors) < 5e-3
