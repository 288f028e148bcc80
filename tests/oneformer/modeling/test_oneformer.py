"""The meta-architecture: this repository's own goldens, its properties, and wrong input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from oneformer.modeling.criterion import contrastive_loss
from oneformer.tasks import TASKS
from tests.oneformer.modeling.compact import (
    CLASSES,
    GOLDEN,
    compact_model,
    image,
    inference_arrays,
    training_arrays,
    training_input,
)

KEYS = {"panoptic": "panoptic_seg", "instance": "instances", "semantic": "sem_seg"}


@pytest.fixture(scope="module")
def model():
    return compact_model("MODEL.IS_TRAIN", False).eval()


def test_inference_golden(model):
    golden = np.load(GOLDEN)
    for key, ours in inference_arrays(model).items():
        np.testing.assert_allclose(ours, golden[key], atol=1e-3)


def test_training_golden():
    golden = np.load(GOLDEN)
    ours = training_arrays(compact_model())
    assert ours.keys() == {k for k in golden.files if k.startswith(("loss.", "grad."))}
    for key, value in ours.items():
        assert value == pytest.approx(golden[key].item(), rel=1e-3, abs=1e-4), key


@torch.inference_mode()
def test_each_task_has_its_key(model):
    for task in TASKS:
        (result,) = model([{"image": image(40, 56), "task": task, "height": 80, "width": 61}])
        assert set(result) == {KEYS[task]}
    (result,) = model([{"image": image(40, 56), "task": "all", "height": 80, "width": 61}])
    assert set(result) == set(KEYS.values())
    assert result["sem_seg"].shape == (len(CLASSES), 80, 61)
    assert result["panoptic_seg"][0].shape == (80, 61)
    assert result["instances"].image_size == (80, 61)
    (two,) = model([{"image": image(40, 56), "task": ("semantic", "panoptic")}])
    assert set(two) == {"sem_seg", "panoptic_seg"} and two["sem_seg"].shape[1:] == (40, 56)


@torch.inference_mode()
def test_task_changes_the_queries(model):
    raw = model.predict_queries([{"image": image(40, 56), "task": "all"}])["pred_logits"]
    assert (raw[0] - raw[1]).abs().max() > 0.01 and (raw[1] - raw[2]).abs().max() > 0.01


@torch.inference_mode()
def test_mixed_tasks_in_a_batch(model):
    a, b = image(40, 56), image(40, 56, seed=1)
    mixed = model.predict_queries([{"image": a, "task": "semantic"}, {"image": b, "task": "all"}])
    alone = model.predict_queries([{"image": b, "task": "all"}])
    assert mixed["pred_logits"].shape[0] == 4
    torch.testing.assert_close(mixed["pred_logits"][1:], alone["pred_logits"], atol=1e-3, rtol=0)


@torch.inference_mode()
def test_batch_invariance():
    """Off, a smaller image sees its mate's padding; on, it does not."""
    small, large = {"image": image(40, 50), "task": "panoptic"}, {"image": image(120, 90), "task": "panoptic"}
    difference = {}
    for switch in (False, True):
        model = compact_model("MODEL.ONE_FORMER.BATCH_INVARIANT", switch, "MODEL.IS_TRAIN", False).eval()
        alone, together = model.predict_queries([small]), model.predict_queries([small, large])
        h, w = alone["pred_masks"].shape[2:]
        difference[switch] = max(
            (together["pred_logits"][0] - alone["pred_logits"][0]).abs().max().item(),
            (together["pred_masks"][0, :, :h, :w] - alone["pred_masks"][0]).abs().max().item(),
        )
        assert together["pred_masks"].shape[2:] == (32, 24)
    assert difference[False] > 1e-2
    assert difference[True] == 0


@torch.inference_mode()
@pytest.mark.parametrize("height, width", [(1, 1), (33, 5000 // 4), (32, 32)])
def test_odd_sizes(model, height, width):
    (result,) = model([{"image": image(height, width), "task": "all"}])
    assert result["sem_seg"].shape[1:] == result["panoptic_seg"][0].shape == (height, width)


@pytest.mark.parametrize("classes, queries", [(1, 12), (4, 1), (1, 1)])
def test_one_class_and_one_query(classes, queries):
    options = ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", classes, "MODEL.ONE_FORMER.NUM_OBJECT_QUERIES", queries]
    model = compact_model(*options, "MODEL.TEXT_ENCODER.N_CTX", 0)
    empty = training_input(40, 50, [], "semantic", queries)
    losses = model.train()([training_input(40, 50, [0], "panoptic", queries), empty])
    assert all(torch.isfinite(value) for value in losses.values())
    with torch.inference_mode():
        (result,) = model.eval()([{"image": image(40, 56), "task": "all"}])
    assert result["sem_seg"].shape == (classes, 40, 56) and len(result["instances"]) <= classes * queries


def test_no_targets_train_on():
    """An image with nothing in it: no mask loss, but a gradient for every parameter."""
    model = compact_model().train()
    losses = model([training_input(40, 50, [], "instance", 8)])
    assert losses["loss_mask"] == 0 and losses["loss_dice_0"] == 0 and losses["loss_ce"] > 0
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert not without


def test_padding_texts_are_encoded_once():
    """Encoding each distinct string once, up to the longest, gives the features of encoding all of them."""
    model = compact_model()
    x = training_input(40, 50, [0, 2, 2], "panoptic", 8)
    features = model._texts([x, x], 12)
    encoder = model.text_encoder
    every = model.text_projector(encoder(x["text_tokens"][x["text_index"]]))
    torch.testing.assert_close(features[1, :8], every)
    long = torch.nn.functional.pad(x["text_tokens"], (0, 0))
    mask = torch.ones(77, 77, dtype=torch.bool).tril()[None, None]
    y = encoder.token_embedding(long) + encoder.positional_embedding
    for block in encoder.transformer.resblocks:
        y = block(y, mask)
    whole = encoder.ln_final(y)[torch.arange(len(long)), long.argmax(1)]
    torch.testing.assert_close(encoder(x["text_tokens"]), whole)


def test_contrastive_loss_by_hand():
    queries = torch.eye(2).reshape(2, 1, 2)
    loss = contrastive_loss(queries, queries, torch.tensor(0.0))
    assert loss.item() == pytest.approx(2 * (np.log(np.e + 1) - 1))
    assert contrastive_loss(queries[:1], queries[:1], torch.tensor(2.0)).item() == 0


def test_activation_checkpointing_changes_no_gradient():
    grads = []
    for on in (False, True):
        options = ["MODEL.ONE_FORMER.CHECKPOINT_ENCODER", on, "MODEL.ONE_FORMER.CHECKPOINT_DECODER", on]
        grads.append(training_arrays(compact_model(*options)))
    assert grads[0] == pytest.approx(grads[1], rel=1e-5)


def test_task_embedding_is_fp32_under_autocast(model):
    exact = model.embed_tasks(TASKS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.embed_tasks(TASKS), exact)


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"image": image(8, 8)}, "no 'task'"),
        ({"image": image(8, 8), "task": "panotpic"}, "unknown task 'panotpic'"),
        ({"image": image(8, 8)[0], "task": "panoptic"}, "must be"),
        ({"image": image(8, 8)[:, :0], "task": "panoptic"}, "must be"),
        ({"image": image(8, 8)[:2], "task": "panoptic", "file_name": "a.png"}, "a.png"),
    ],
)
def test_wrong_input(model, bad, message):
    with pytest.raises(ValueError, match=message):
        model([bad])


def test_wrong_training_input():
    model = compact_model().train()
    good = training_input(40, 50, [0], "panoptic", 8)
    with pytest.raises(ValueError, match="exactly one task"):
        model([{**good, "task": "all"}])
    with pytest.raises(ValueError, match="'instances'"):
        model([{k: v for k, v in good.items() if k != "instances"}])
    with pytest.raises(ValueError, match="text vectors"):
        model([{**good, "text_index": good["text_index"][:3]}])
    with pytest.raises(ValueError, match="IS_TRAIN"):
        compact_model("MODEL.IS_TRAIN", False).train()([good])


def test_nan_is_loud():
    model = compact_model().train()
    with torch.no_grad():
        model.sem_seg_head.predictor.class_embed.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        model([training_input(40, 50, [0], "panoptic", 8)])


def test_bf16_autocast_trains():
    """Training and inference under autocast: finite, and within bfloat16's precision of fp32."""
    batch = [training_input(40, 50, [0, 2], "panoptic", 8), training_input(40, 50, [3], "instance", 8, seed=1)]
    model, totals = compact_model().train(), []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = model(batch)
        totals.append(sum(losses.values()).item())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert totals[1] == pytest.approx(totals[0], rel=0.25)   # random weights: masks flip at rounding
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        raw = model.eval().predict_queries([{"image": image(40, 56), "task": "panoptic"}])
    assert raw["pred_logits"].dtype == raw["pred_masks"].dtype == torch.float32
