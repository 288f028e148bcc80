"""Properties of the episodes, on a small set of scenes drawn into the test's folder."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from segcore.data import builtin, register_builtin
from segcore.data.kinds import writer
from segcore.engine.replay import ReplayBatchSampler, ReplayDataset, sample_randomness
from seggpt.data.annotations import VOID
from seggpt.data.augmentation import View
from seggpt.data.episodes import EpisodeMapper, Source
from seggpt.modeling.loss import inpainting_loss

PLAIN = View((64, 64), (0.5, 1.0), (0.75, 1.33), 0.5, (0.4, 0.4, 0.2, 0.1), 0.8)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "SCENES", {"train": 40, "val": 1, "seen": 1})
        patch.setattr(writer, "_SPLITS", {**writer._SPLITS, "train": (0, (1, 30, 60, 100, 333, 700))})
        patch.setattr(builtin, "_chosen_root", None)
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path_factory.mktemp("sets")))
        register_builtin()
        yield [{**r, "source": 0} for r in DatasetCatalog.get("kinds_panoptic_train")]


def mapper_of(records, **changes) -> EpisodeMapper:
    arguments = {
        "canvas": (128, 64),
        "patch": 8,
        "sources": [Source(0.0, True, 255, 961)],
        "view": PLAIN,
        "same_image_prob": 0.0,
        "mix_prob": 0.0,
        "mix_scale": (0.5, 1.0),
        "stitch_crop_prob": 0.0,
        "stitch_crop_ratio": (0.3, 0.7),
        "half_mask_prob": 1.0,
        "mask_ratio": 0.5,
        "max_labels": 5,
        "min_pixels": 40,
        "tries": 10,
        "colour_distance": 60,
    }
    mapper = EpisodeMapper(**{**arguments, **changes})
    mapper.use_records(records)
    return mapper


def draw(mapper, record, seed: int) -> dict:
    with sample_randomness(seed):
        return mapper(record)


def colours_of(target: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(c) for c in target.reshape(3, -1).T.unique(dim=0).tolist()} - {(0, 0, 0)}


@pytest.mark.parametrize("mixed", [0.0, 1.0])
def test_both_halves_share_their_colours_and_the_next_episode_has_others(records, mixed):
    mapper = mapper_of(records, mix_prob=mixed)
    seen = []
    for seed, record in enumerate(records[:20]):
        episode = draw(mapper, record, seed)
        above, below = (colours_of(half) for half in episode["target"].chunk(2, 1))
        assert above == below and 1 <= len(above) <= 5
        seen.append(above)
    assert not any(a & b for i, a in enumerate(seen) for b in seen[:i])


def test_recolouring_reads_back_as_the_labels(records):
    mapper = mapper_of(records)
    rng = np.random.default_rng(0)
    maps = rng.integers(-1, 9, (128, 64)).astype(np.int32)
    labels = [2, 5, 7]
    target = mapper._paint(np.random.default_rng(3), records[0], maps, labels)
    codes = target.astype(int) @ [65536, 256, 1]
    back = np.zeros_like(maps)
    for label in labels:
        colour = np.unique(codes[maps == label])
        assert len(colour) == 1
        back[codes == colour[0]] = label
    assert (back == np.where(np.isin(maps, labels), maps, 0)).all()


def test_a_label_has_one_colour_in_an_episode_and_unrelated_ones_over_many(records):
    mapper = mapper_of(records)
    maps = np.full((128, 64), 31, np.int32)
    drawn = [mapper._paint(np.random.default_rng(s), records[0], maps, [31])[0, 0] for s in range(200)]
    drawn = np.array(drawn, int)
    assert np.abs(drawn.mean(0) - 127.5).max() < 4 * 74 / np.sqrt(200)  # uniform: deviation 74
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 4 / np.sqrt(200)
    fixed = mapper_of(records, random_colouring=False)
    same = {tuple(fixed._paint(np.random.default_rng(s), records[0], maps, [31])[0, 0]) for s in range(5)}
    assert len(same) == 1


def test_the_same_seed_gives_the_same_episode_in_any_process(records):
    mapper = mapper_of(records, half_mask_prob=0.5, mix_prob=0.3, same_image_prob=0.5)
    data = ReplayDataset(records, mapper)
    sampler = ReplayBatchSampler(len(records), 4, seed=3)
    batches = iter(sampler)
    first = [next(batches) for _ in range(3)]
    shares = [iter(ReplayBatchSampler(len(records), 4, seed=3, rank=r, world_size=2)) for r in range(2)]
    for batch in first:
        parts = [next(share) for share in shares]
        again = {sample: data[sample] for part in parts for sample in part}
        for sample in batch:
            episode = data[sample]
            assert all(torch.equal(episode[k], again[sample][k]) for k in ("image", "target", "valid", "mask"))


def test_void_never_enters_the_loss(records):
    mapper = mapper_of(records)
    real = mapper._draw_halves

    def with_void(rng, record, by_instance):
        halves, labels = real(rng, record, by_instance)
        for _, labels_of_half in halves:
            labels_of_half[:, :20] = VOID
        return halves, labels

    mapper._draw_halves = with_void
    episode = draw(mapper, records[0], 0)
    assert not episode["valid"][:, :, :20].any() and episode["valid"][:, :, 20:].all()
    target = episode["target"][None].float()
    painted = target.clone().requires_grad_()
    wrong = painted + torch.where(episode["valid"][None] == 0, 99.0, 0.0)
    mask = episode["mask"][None].float()
    loss = inpainting_loss(wrong, target, mask, episode["valid"][None], patch=8, skip_blank=False)
    loss.backward()
    assert loss == 0 and not painted.grad.any()


def test_an_episode_without_anything_in_common_counts_nothing(records):
    mapper = mapper_of(records, min_pixels=10**6, tries=2)
    episode = draw(mapper, records[0], 0)
    assert not episode["valid"].any() and not episode["target"].any()


def test_the_context_shares_a_category_and_is_another_picture(records):
    mapper = mapper_of(records)
    rng = np.random.default_rng(0)
    categories = [{s["category_id"] for s in r["segments_info"] if s["isthing"]} for r in records]
    by_name = {r["file_name"]: c for r, c in zip(records, categories)}
    drawn = defaultdict(int)
    for record in records:
        for _ in range(5):
            other = mapper.index.draw(rng, record)
            assert by_name[other["file_name"]] & by_name[record["file_name"]]
            drawn[other["file_name"] == record["file_name"]] += 1
    assert drawn[True] < 0.1 * drawn[False]


def test_by_instance_shows_two_views_of_one_picture(records):
    still = View((64, 64), (1.0, 1.0), (1.0, 1.0), 0.0, (0, 0, 0, 0), 0.0)
    mapper = mapper_of(records, sources=[Source(1.0, True, 255, 961)], view=still)
    episode = draw(mapper, records[0], 1)
    above, below = episode["image"].chunk(2, 1)
    assert episode["seg_type"] == 1 and torch.equal(above, below)
    assert torch.equal(*episode["target"].chunk(2, 1))


def test_masks_are_of_the_asked_kind_and_share(records):
    mapper = mapper_of(records, half_mask_prob=0.3)
    kinds = [mapper._draw_mask(np.random.default_rng(s), False)[0] for s in range(300)]
    half = [mask for mask in kinds if mask[8:].all()]
    assert all(mask.sum() == 64 for mask in kinds)
    assert abs(len(half) / 300 - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 300)


def test_use_before_the_records_are_known_is_an_error(records):
    mapper = mapper_of(records)
    mapper.index = None
    with pytest.raises(ValueError, match="use_records has not been called"):
        mapper(records[0])
