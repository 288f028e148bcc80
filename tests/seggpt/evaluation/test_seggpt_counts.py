"""mIoU and FB-IoU worked by hand, and episode lists that a seed fixes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from seggpt.evaluation.counts import OverlapCounter
from seggpt.evaluation.episodes import draw_episodes, members_by_category


def row(*bits: int) -> np.ndarray:
    return np.array([bits], bool)


def worked_by_hand() -> OverlapCounter:
    counter = OverlapCounter()
    counter.add(1, row(1, 1, 0, 0), row(1, 0, 0, 0))  # fg 1/2, bg 2/3
    counter.add(1, row(1, 1, 1, 0), row(0, 1, 1, 0))  # fg 2/3, bg 1/2
    counter.add(2, row(0, 0, 0, 1), row(1, 0, 0, 0), row(1, 1, 1, 0))  # fg 0/1, bg 2/3: the last pixel is void
    return counter


def test_hand_worked():
    found = worked_by_hand().results()
    assert found["mIoU"] == pytest.approx(100 * (3 / 5 + 0) / 2)
    assert found["FB-IoU"] == pytest.approx(100 * (3 / 6 + 5 / 8) / 2)
    assert found["episodes"] == 3
    assert worked_by_hand().class_iou() == {1: pytest.approx(60.0), 2: 0.0}


def test_parts_add_up_and_travel():
    total = OverlapCounter()
    total.merge(pickle.loads(pickle.dumps(worked_by_hand())))
    total.merge(OverlapCounter())
    assert total.results() == worked_by_hand().results()
    assert np.isnan(OverlapCounter().results()["mIoU"])
    with pytest.raises(ValueError, match="the prediction is"):
        total.add(1, row(1), row(1, 0))


def test_lists_are_fixed_and_no_picture_is_its_own_example():
    members = members_by_category([{0, 1}, {0}, {1, 2}, {0, 1}, {0}, {0, 2}])
    assert members == {0: [0, 1, 3, 4, 5], 1: [0, 2, 3], 2: [2, 5]}
    episodes = draw_episodes(members, 200, 2, seed=0)
    assert episodes == draw_episodes(members, 200, 2, seed=0) != draw_episodes(members, 200, 2, seed=1)
    assert {e.category for e in episodes} == {0, 1}  # class 2 has too few pictures
    for e in episodes:
        assert e.query not in e.supports and len(set(e.supports)) == 2
        assert {e.query, *e.supports} <= {*members[e.category]}
    repeated = draw_episodes(members, 200, 5, seed=0, repeat=True)
    assert {e.category for e in repeated} == {0, 1, 2}
    with pytest.raises(ValueError, match="no class of 3 has 10 pictures"):
        draw_episodes(members, 1, 9, seed=0)
