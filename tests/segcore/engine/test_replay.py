"""Which images a step sees, and what randomness they bring."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcore.engine.replay import (
    ReplayBatchSampler,
    ReplayDataset,
    Sample,
    orientation_groups,
    sample_randomness,
)
from tests.segcore.toy import toy_items


def batches(count: int, **options) -> list[list[Sample]]:
    sampler = ReplayBatchSampler(**{"size": 10, "batch_size": 4, "seed": 1, **options})
    return [batch for batch, _ in zip(sampler, range(count))]


def test_every_image_once_per_epoch():
    drawn = [sample.index for batch in batches(5) for sample in batch]
    assert sorted(drawn[:10]) == list(range(10))
    assert sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_no_two_samples_share_a_seed():
    seeds = [sample.seed for batch in batches(50) for sample in batch]
    assert len(set(seeds)) == len(seeds)


def test_starting_later_gives_the_later_batches():
    groups = [i % 3 == 0 for i in range(10)]
    for options in ({}, {"groups": groups}):
        sampler = ReplayBatchSampler(10, 4, 8, **options)
        sampler.start_at(7, seed=1)
        assert [b for b, _ in zip(sampler, range(5))] == batches(12, **options)[7:]


def test_processes_share_the_batches_of_one():
    whole = batches(6)
    parts = [batches(6, rank=rank, world_size=2) for rank in range(2)]
    for batch, *shares in zip(whole, *parts):
        assert sorted(batch) == sorted(s for share in shares for s in share)
        assert [len(share) for share in shares] == [2, 2]


def test_groups_are_not_mixed():
    groups = orientation_groups([{"width": 5 + i % 2, "height": 5} for i in range(10)])
    assert groups == [1, 0] * 5
    for batch in batches(20, groups=groups):
        assert len({groups[sample.index] for sample in batch}) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "no images"),
        ({"world_size": 3}, "multiple of the number of processes, 3"),
        ({"groups": [1]}, "1 group labels for 10 images"),
    ],
)
def test_impossible_batches(options, message):
    with pytest.raises(ValueError, match=message):
        batches(1, **options)


def test_augmentation_does_not_touch_the_models_randomness():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with sample_randomness(4):
        first = torch.rand(1), np.random.rand()
    assert torch.equal(torch.rand(3), expected)
    with sample_randomness(4):
        assert (torch.rand(1), np.random.rand()) == first


def test_a_mapper_that_gives_up_is_an_error():
    data = ReplayDataset([{"file_name": "x.png"}], lambda item: None)
    with pytest.raises(ValueError, match=r"None for 'x.png'"):
        data[Sample(0, 0)]


def test_toy_pictures_have_both_orientations():
    assert set(orientation_groups(toy_items())) == {0, 1}
