"""The paper's mixture of data sets: its weights, and that the loader draws in their proportion."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from segcore.engine.replay import ReplayBatchSampler
from seggpt.config import read_config
from tests.conftest import REPO

# Appendix A of arXiv:2304.03284; groups share their weight by the number of images.
PAPER = {
    ("coco_2017_train",): 0.22,
    ("ade20k_panoptic_train",): 0.15,
    ("coco_2017_train_panoptic_with_sem_seg",): 0.15,
    ("cityscapes_fine_panoptic_train",): 0.07,
    ("coco_stuff",): 0.07,
    ("lip",): 0.07,
    ("voc_aug",): 0.07,
    ("paco",): 0.07,
    ("isaid", "loveda"): 0.06,
    ("chase_db1", "drive", "hrf", "stare"): 0.06,
}
SIZES = {"isaid": 23262, "loveda": 2522, "chase_db1": 28, "drive": 20, "hrf": 45, "stare": 20}


@pytest.fixture(scope="module")
def weights() -> dict[str, float]:
    cfg = read_config(REPO / "configs/seggpt/paper_mixture.yaml")
    assert len(cfg.DATASETS.TRAIN) == len(cfg.DATASETS.TRAIN_WEIGHTS) == len(cfg.INPUT.EPISODES.INSTANCE_PROB)
    assert cfg.INPUT.EPISODES.INSTANCE_PROB[0] == 1 and not any(cfg.INPUT.EPISODES.INSTANCE_PROB[1:])
    return dict(zip(cfg.DATASETS.TRAIN, cfg.DATASETS.TRAIN_WEIGHTS))


def test_the_weights_are_the_papers(weights):
    assert set(weights) == {name for group in PAPER for name in group}
    for group, weight in PAPER.items():
        assert sum(weights[name] for name in group) == pytest.approx(weight)
        images = sum(SIZES.get(name, 1) for name in group)
        for name in group:
            assert weights[name] == pytest.approx(weight * SIZES.get(name, 1) / images, abs=6e-5), name


def test_draws_meet_them_within_sampling_error(weights):
    sizes = [SIZES.get(name, 40 + 7 * k) for k, name in enumerate(weights)]  # small where the size does not matter
    sizes = [min(size, 400) for size in sizes]
    sources = np.repeat(np.arange(len(sizes)), sizes)
    sampler = ReplayBatchSampler(len(sources), 64, 5, sources=sources.tolist(), weights=list(weights.values()))
    batches = list(itertools.islice(sampler, 400))
    drawn = Counter(int(sources[sample.index]) for batch in batches for sample in batch)
    count, total = sum(drawn.values()), sum(weights.values())
    assert count == 400 * 64
    for number, (name, weight) in enumerate(weights.items()):
        share = weight / total
        error = np.sqrt(share * (1 - share) / count)
        assert abs(drawn[number] / count - share) < 4 * error, name


def test_each_process_draws_its_part_of_the_same_mixture(weights):
    sizes = [30] * len(weights)
    sources = np.repeat(np.arange(len(sizes)), sizes).tolist()

    def batches(**where):
        sampler = ReplayBatchSampler(len(sources), 16, 5, sources=sources, weights=list(weights.values()), **where)
        return list(itertools.islice(sampler, 50))

    whole, parts = batches(), [batches(rank=r, world_size=4) for r in range(4)]
    for number, batch in enumerate(whole):
        assert sorted(batch) == sorted(sample for part in parts for sample in part[number])
