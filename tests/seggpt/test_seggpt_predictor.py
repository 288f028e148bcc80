"""The predictor: prompts in every form, answers at the image's size, files, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seggpt import SegGPTPredictor
from seggpt.pictures import covered_size, grid_of, padded_tokens, read_mask_file, read_picture, window_weight, windows
from tests.seggpt.small_seggpt import small_model


@pytest.fixture
def predictor(model):
    return SegGPTPredictor(model=model, device="cpu")


def photo(height: int = 50, width: int = 70, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def box(height: int = 50, width: int = 70, label: int = 1) -> np.ndarray:
    mask = np.zeros((height, width), np.int32)
    mask[10:40, 20:50] = label
    return mask


def test_answers_have_the_images_size_and_the_prompts_labels(predictor):
    mask = box(label=3)
    mask[:10] = 8
    prompts = predictor.encode_prompts(photo(), mask, type="semantic")
    label_map, scores, painting = predictor(photo(33, 91), prompts)
    assert (
        label_map.shape == (33, 91) and label_map.dtype == np.int32 and set(np.unique(label_map)) <= {0, 3, 8}
    )
    assert list(scores) == [3, 8] and all(
        s.shape == (33, 91) and s.min() >= 0 and s.max() <= 1 for s in scores.values()
    )
    assert painting.shape == (33, 91, 3) and painting.dtype == np.uint8


def test_decoding_is_nearest_colour_or_background(predictor):
    prompts = predictor.encode_prompts([photo()], [box()], type="instance")
    prediction = predictor(photo(64, 64), prompts)
    assert np.array_equal(prediction.label_map, (prediction.scores[1] > 0.5).astype(np.int32))
    higher = predictor(photo(64, 64), prompts, threshold=0.6)
    assert np.array_equal(higher.label_map, (prediction.scores[1] > 0.6).astype(np.int32))


def test_at_the_canvas_size_the_painting_is_the_models(predictor, model):
    prompt, query, mask = photo(64, 64), photo(64, 64, 1), box(64, 64)
    prompts = predictor.encode_prompts(prompt, mask, type="instance")
    canvas = torch.from_numpy(np.concatenate([prompt, query])).permute(2, 0, 1)[None]
    target = torch.from_numpy(mask * np.int32(255)).expand(1, 3, 64, 64)
    target = torch.cat([target, target], 2)
    hidden = (torch.arange(32) >= 16).float()[None]
    with torch.no_grad():
        out = model.inpaint(model.normalize(canvas), model.normalize(target), hidden, torch.tensor([1]))
    expected = model.denormalize(out)[0, :, 64:].round().byte().permute(1, 2, 0).numpy().astype(int)
    assert np.abs(predictor(query, prompts).painting - expected).max() <= 1


def test_a_batch_gives_what_single_pictures_give(predictor):
    predictor.batch_size = 2
    prompts = predictor.encode_prompts([photo(), photo(60, 60, 5)], [box(), box(60, 60)])
    images = [photo(40, 40, i) for i in range(3)]
    for one, many in zip((predictor(i, prompts) for i in images), predictor(images, prompts)):
        assert np.abs(one.scores[1] - many.scores[1]).max() <= 1e-5


def test_order_of_prompts_does_not_matter(predictor):
    images, masks = [photo(seed=i) for i in range(3)], [box(label=1), box(label=2), box(label=1)]
    first, second = (
        predictor.encode_prompts([images[i] for i in o], [masks[i] for i in o])
        for o in ((0, 1, 2), (2, 0, 1))
    )
    for label in (1, 2):
        difference = (
            predictor(photo(seed=9), first).scores[label] - predictor(photo(seed=9), second).scores[label]
        )
        assert np.abs(difference).max() <= 1e-5


def test_separate_labels_equal_prompts_of_their_own(predictor):
    mask = box()
    mask[:8] = 2
    prompts = predictor.encode_prompts(photo(), mask, separate=True)
    together = predictor(photo(seed=1), prompts)
    for label in (1, 2):
        alone = predictor(photo(seed=1), predictor.encode_prompts(photo(), mask == label))
        assert np.abs(together.scores[label] - alone.painting.mean(-1) / 255).max() <= 0.01
    best = np.where(together.scores[1] >= together.scores[2], 1, 2)
    winner = np.maximum(together.scores[1], together.scores[2]) > 0.5
    assert np.array_equal(together.label_map, best * winner)


def test_more_labels_than_colours_need_a_pass_each(predictor):
    mask = np.arange(1, 131).repeat(2).reshape(20, 13)
    with pytest.raises(ValueError, match="130 labels"):
        predictor.encode_prompts(photo(20, 13), mask)
    prompts = predictor.encode_prompts(photo(20, 13), mask, separate=True)
    assert prompts.targets.shape[0] == 130


def test_spatial_ensemble(predictor):
    images, masks = [photo(64, 64, i) for i in range(3)], [box(64, 64)] * 3
    prompts = predictor.encode_prompts(images, masks, ensemble="spatial")
    assert prompts.images.shape == (1, 64, 64, 3)
    by_hand = np.concatenate(
        [
            np.concatenate([np.repeat(m[::2, ::2, None] * 255, 3, 2) for m in row], 1)
            for row in (masks[:2], masks[:2])
        ]
    )
    assert (np.abs(prompts.targets[0, 0].astype(int) - by_hand) > 0).mean() < 0.1
    one = predictor.encode_prompts(images[:1], masks[:1], ensemble="spatial")
    other = predictor.encode_prompts(images[:1], masks[:1], ensemble="feature")
    assert np.array_equal(predictor(photo(), one).painting, predictor(photo(), other).painting)
    small = grid_of([np.full((4, 6), i, np.int32) for i in (1, 2, 3)], (4, 6), 0)
    assert small[[0, 0, 3, 3], [0, 5, 0, 5]].tolist() == [1, 2, 3, 1]


def test_kept_aspect_hides_its_padding(predictor):
    wide, mask = photo(20, 80), box(20, 80)
    prompts = predictor.encode_prompts(wide, mask, fit="pad")
    assert prompts.features.padding.sum() == 12  # a quarter of the height is covered: one token row of four
    prediction = predictor(photo(80, 20), prompts, fit="pad")
    assert prediction.label_map.shape == (80, 20)
    assert covered_size((20, 80), (64, 64), "pad") == (16, 64)
    assert covered_size((20, 80), (64, 64), "squash") == (64, 64)
    assert padded_tokens((16, 33), (64, 64), 16).reshape(4, 4)[0].tolist() == [False, False, False, True]


@pytest.mark.parametrize("size", [(90, 200), (200, 90), (64, 64)])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_masks_come_back_where_they_were(predictor, monkeypatch, size, separate, fit):
    """A network that repeats the prompt's painting: all that is left is resizing, padding and reading colours."""

    def repeat(model, queries, features, **_):
        targets = torch.from_numpy(prompts.targets[:, 0]).movedim(-1, -3)
        return model.normalize(targets)[None].expand(len(queries), -1, -1, -1, -1)

    monkeypatch.setattr("seggpt.predictor.paint", repeat)
    image, mask = photo(*size), np.zeros(size, np.int32)
    mask[10:40, 20:60], mask[50:64, 10:50] = 5, 9
    prompts = predictor.encode_prompts(image, mask, separate=separate, fit=fit)
    answer = predictor(image, prompts, fit=fit).label_map
    for label in (5, 9):
        overlap = ((answer == label) & (mask == label)).sum() / ((answer == label) | (mask == label)).sum()
        assert overlap > 0.8   # a canvas pixel is up to three of the picture's


def test_tiles_cover_a_large_picture(predictor):
    prompts = predictor.encode_prompts(photo(), box())
    big = photo(150, 260)
    tiled = predictor(big, prompts, tile=64)
    assert tiled.label_map.shape == (150, 260) and np.isfinite(tiled.scores[1]).all()
    small = predictor(photo(50, 50), prompts)
    assert np.abs(predictor(photo(50, 50), prompts, tile=64).scores[1] - small.scores[1]).max() <= 1e-5
    covered = np.zeros((150, 260), int)
    for place in windows((150, 260), 64, 0.25):
        assert covered[place].shape == (64, 64)
        covered[place] += 1
    assert covered.min() >= 1
    assert window_weight(5, 7).argmax() == 2 * 7 + 3


@pytest.mark.parametrize("separate, fit", [(False, "squash"), (True, "pad")])
def test_prompts_survive_a_file(predictor, tmp_path, separate, fit):
    mask = box()
    mask[:8] = 2
    prompts = predictor.encode_prompts(
        [photo(), photo(seed=1)], [mask, box()], type="semantic", separate=separate, fit=fit
    )
    prompts.save(tmp_path / "p.safetensors")
    loaded = predictor.load_prompts(tmp_path / "p.safetensors")
    assert loaded.type == "semantic" and loaded.labels.tolist() == [1, 2]
    first, second = predictor(photo(seed=2), prompts), predictor(photo(seed=2), loaded)
    assert np.array_equal(first.painting, second.painting) and np.array_equal(
        first.label_map, second.label_map
    )


def test_prompts_of_another_model_are_refused(predictor, tmp_path):
    prompts = predictor.encode_prompts(photo(), box())
    prompts.save(tmp_path / "p.safetensors")
    other_model = small_model()
    with torch.no_grad():
        other_model.blocks[5].mlp.fc1.weight += 1
    for other in (other_model, small_model().bfloat16()):
        stranger = SegGPTPredictor(model=other)
        with pytest.raises(ValueError, match="another model"):
            stranger.load_prompts(tmp_path / "p.safetensors")
        with pytest.raises(ValueError, match="another model"):
            stranger(photo(), prompts)


def test_files_that_hold_no_prompts_are_refused(predictor, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match="no prompt file"):
        predictor.load_prompts(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not at all")
    with pytest.raises(ValueError, match="cannot read the prompt file"):
        predictor.load_prompts(tmp_path / "broken.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no prompts"):
        predictor.load_prompts(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"\.safetensors"):
        predictor.encode_prompts(photo(), box()).save(tmp_path / "p.pth")


@pytest.mark.parametrize(
    "images, masks, options, error, words",
    [
        ([], [], {}, ValueError, "no prompt"),
        ([photo()], [box(), box()], {}, ValueError, "1 prompt images but 2 masks"),
        (photo(), box(60, 60), {}, ValueError, "60x60 pixels but its image 70x50"),
        ([photo(), photo()], [box(), box() * 0], {}, ValueError, "mask 1 is empty"),
        (photo(), np.zeros((50, 70, 4), np.uint8), {}, ValueError, "alpha"),
        (photo()[..., 0], box(), {}, ValueError, "grey"),
        (np.zeros((50, 70, 4), np.uint8), box(), {}, ValueError, "alpha"),
        (photo() / 255, box(), {}, TypeError, "uint8"),
        (photo(), box(), {"type": "panoptic"}, ValueError, "semantic, instance"),
        (photo(), box(), {"ensemble": "mean"}, ValueError, "feature, spatial"),
        (photo(), box(), {"fit": "crop"}, ValueError, "squash, pad"),
    ],
    ids=range(11),
)
def test_bad_prompts_are_refused(predictor, images, masks, options, error, words):
    with pytest.raises(error, match=words):
        predictor.encode_prompts(images, masks, **options)


def test_objects_that_vanish_at_the_networks_size_are_refused(predictor):
    mask = np.zeros((900, 900), bool)
    mask[3, 3] = True
    with pytest.raises(ValueError, match="vanishes"):
        predictor.encode_prompts(photo(900, 900), mask)
    labels = mask * np.int32(7)
    labels[500:] = 2
    with pytest.raises(ValueError, match="label 7 of the masks vanishes"):
        predictor.encode_prompts(photo(900, 900), labels)


@pytest.mark.parametrize(
    "image, error, words",
    [
        (photo()[..., 0], ValueError, "grey"),
        (np.zeros((5, 5, 4), np.uint8), ValueError, "alpha"),
        ("file.jpg", TypeError, "str"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, "no pixels"),
    ],
)
def test_bad_pictures_are_refused(predictor, image, error, words):
    with pytest.raises(error, match=words):
        predictor(image, predictor.encode_prompts(photo(), box()))


def test_picture_files(tmp_path):
    from PIL import Image

    Image.fromarray(photo()[..., 0]).save(tmp_path / "grey.png")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0nothing")
    with pytest.raises(ValueError, match="grey picture"):
        read_picture(tmp_path / "grey.png")
    with pytest.raises(ValueError, match="cannot read the image"):
        read_picture(tmp_path / "cut.jpg")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_picture(tmp_path / "none.jpg")
    Image.fromarray(photo()[..., 0]).save(tmp_path / "mask.jpg")
    with pytest.raises(ValueError, match="JPEG"):
        read_mask_file(tmp_path / "mask.jpg")
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "rgba.png")
    for read in (read_picture, read_mask_file):
        with pytest.raises(ValueError, match="four-channel"):
            read(tmp_path / "rgba.png")


def test_half_precision_model(predictor, model):
    prompts = predictor.encode_prompts(photo(), box())
    exact = predictor(photo(seed=3), prompts).scores[1]
    half = SegGPTPredictor(model=small_model().bfloat16())
    scores = half(photo(seed=3), half.encode_prompts(photo(), box())).scores[1]
    assert np.abs(scores - exact).max() <= 0.02
