"""Test-time augmentation: merging worked out by hand, and what must hold for any model."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from oneformer.inference import SlidingWindow, TestTimeAugmentation, build_inference
from oneformer.inference.merging import QueryGroups, soft_dice
from tests.oneformer.modeling.compact import compact_config, compact_model, image

LOOSE = ("MODEL.TEST.OBJECT_MASK_THRESHOLD", 0.3, "MODEL.TEST.OVERLAP_THRESHOLD", 0.2)


def blocks(*columns):
    """One mask per range of columns, in an image of 8 x 12, certain (logits of 20)."""
    masks = torch.full((len(columns), 8, 12), -20.0)
    for mask, (left, right) in zip(masks, columns):
        mask[:, left:right] = 20.0
    return masks


def probabilities(*rows):
    return torch.tensor(rows).log()


def test_queries_are_matched_by_what_they_show_not_by_their_number():
    first = probabilities([0.8, 0.1, 0.1], [0.1, 0.7, 0.2])
    groups = QueryGroups(first, blocks((0, 4), (6, 12)))
    groups.add(first.flip(0), blocks((6, 12), (0, 4)))
    classes, masks = groups.merged()
    assert torch.allclose(classes.softmax(-1), first.exp(), atol=1e-6)
    assert torch.equal(masks > 0, blocks((0, 4), (6, 12)) > 0)


def test_means_of_matched_queries_and_of_those_that_a_view_lacks():
    groups = QueryGroups(probabilities([0.8, 0.1, 0.1], [0.1, 0.7, 0.2]), blocks((0, 4), (6, 12)), absence=0.5)
    # The second view sees the first object less surely, not the second one, and a third.
    groups.add(probabilities([0.6, 0.1, 0.3], [0.05, 0.9, 0.05]), blocks((0, 4), (4, 6)))
    classes, masks = groups.merged()
    expected = [
        [0.7, 0.1, 0.2],
        [0.1 / 1.5, 0.7 / 1.5, (0.2 + 0.5) / 1.5],
        [0.05 / 1.5, 0.9 / 1.5, (0.05 + 0.5) / 1.5],
    ]
    assert torch.allclose(classes.softmax(-1), torch.tensor(expected), atol=1e-6)
    assert torch.equal(masks > 0, blocks((0, 4), (6, 12), (4, 6)) > 0)


def test_one_place_and_two_classes_are_two_objects():
    groups = QueryGroups(probabilities([0.8, 0.1, 0.1]), blocks((0, 4)))
    groups.add(probabilities([0.1, 0.8, 0.1]), blocks((0, 4)))
    assert len(groups.merged()[0]) == 2


def test_soft_dice_of_equal_half_and_disjoint_masks():
    masks = (blocks((0, 4), (0, 8), (8, 12)) > 0).float()
    assert torch.allclose(soft_dice(masks[:1], masks), torch.tensor([[1.0, 2 / 3, 0.0]]), atol=1e-6)


@pytest.fixture(scope="module")
def model():
    return compact_model(*LOOSE).eval()


def augmented(model, sizes, flip):
    return TestTimeAugmentation(model, base=(50, 1000), sizes=sizes, max_size=1000, flip=flip)


def test_one_view_is_the_plain_model(model):
    x = {"image": image(50, 70), "height": 61, "width": 80, "task": "all"}
    with torch.inference_mode():
        (plain,), (seen,) = model([x]), augmented(model, [50], flip=False)([x])
    assert plain["panoptic_seg"][1]
    assert torch.allclose(seen["sem_seg"], plain["sem_seg"], atol=1e-5)
    assert torch.equal(seen["panoptic_seg"][0], plain["panoptic_seg"][0])
    assert torch.allclose(seen["instances"].scores, plain["instances"].scores, atol=1e-5)
    assert torch.equal(seen["instances"].pred_masks, plain["instances"].pred_masks)


def test_the_mirrored_image_gets_the_mirrored_scores(model):
    picture = image(50, 70)
    seen = augmented(model, [50, 64], flip=True)
    with torch.inference_mode():
        (a,) = seen([{"image": picture, "task": "semantic"}])
        (b,) = seen([{"image": picture.flip(2), "task": "semantic"}])
    assert len(seen.views) == 4
    assert torch.allclose(a["sem_seg"], b["sem_seg"].flip(2), atol=1e-4)


def test_views_are_made_from_the_original_file(model, tmp_path):
    picture = image(100, 140)
    path = tmp_path / "photo.png"
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(path)
    small = {"image": picture[:, ::2, ::2], "height": 100, "width": 140, "task": ("semantic", "panoptic")}
    seen = augmented(model, [100], flip=False)
    with torch.inference_mode():
        (from_file,) = seen([{**small, "file_name": str(path)}])
        (from_array,) = seen([{**small, "image": picture}])
        (from_small,) = seen([small])
    assert from_file.keys() == {"sem_seg", "panoptic_seg"}
    assert torch.equal(from_file["sem_seg"], from_array["sem_seg"])
    assert not torch.equal(from_file["sem_seg"], from_small["sem_seg"])


def test_the_config_chooses(model):
    def built(*options):
        return build_inference(compact_config(*options), model)

    assert built() is model
    assert isinstance(built("TEST.AUG.ENABLED", True), TestTimeAugmentation)
    assert built("MODEL.TEST.WINDOW.SIZE", [64, 96]).window == (64, 96)
    assert isinstance(built("MODEL.TEST.WINDOW.SIZE", [64, 96]), SlidingWindow)
    with pytest.raises(ValueError, match="cannot be combined"):
        built("MODEL.TEST.WINDOW.SIZE", [64, 96], "TEST.AUG.ENABLED", True)
    with pytest.raises(ValueError, match=r"expected \[height, width\]"):
        built("MODEL.TEST.WINDOW.SIZE", [64])
