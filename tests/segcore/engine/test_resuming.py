"""A killed training goes on to the same weights and curve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segcore.engine import hooks as engine_hooks
from tests.segcore.engine.runs import lines, train, weights


@pytest.mark.parametrize(
    "opts",
    [
        (),
        ("DATALOADER.NUM_WORKERS", 2),
        ("SOLVER.ACCUMULATE", 2, "SOLVER.EMA.ENABLED", True, "SOLVER.AMP.ENABLED", True,
         "SOLVER.AMP.DTYPE", "bfloat16"),
        ("SEED", -1),
    ],
    ids=["plain", "workers", "accumulate-ema-bf16", "no-seed"],
)  # fmt: skip
def test_killed_and_resumed_it_is_the_unbroken_run_to_the_bit(tmp_path, opts):
    opts = (*opts, "SOLVER.MAX_ITER", 11, "SOLVER.CHECKPOINT_PERIOD", 4)
    np.random.seed(5)  # where SEED -1 gets its seed
    whole, losses = train(tmp_path / "whole", *opts)
    np.random.seed(5)
    train(tmp_path / "broken", *opts, die_after=9)  # two steps past the checkpoint, one line too many written
    np.random.seed(6)
    torch.manual_seed(99)
    resumed, rest = train(tmp_path / "broken", *opts, resume=True)

    assert sorted(rest) == [8, 9, 10]
    assert rest == {i: losses[i] for i in rest}
    assert torch.equal(weights(resumed), weights(whole))
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")
    if whole.average is not None:
        for ours, theirs in zip(resumed.average.parameters(), whole.average.parameters()):
            assert torch.equal(ours, theirs)


def test_workers_change_nothing(tmp_path):
    _, alone = train(tmp_path / "a")
    _, helped = train(tmp_path / "b", "DATALOADER.NUM_WORKERS", 2)
    assert alone == helped


def test_another_seed_is_another_run(tmp_path):
    _, three = train(tmp_path / "a")
    _, four = train(tmp_path / "b", "SEED", 4)
    assert three != four


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, _ = train(tmp_path)
    again, losses = train(tmp_path, resume=True)
    assert losses == {}
    assert torch.equal(weights(first), weights(again))


def test_a_new_run_does_not_append_to_the_old_curve(tmp_path):
    train(tmp_path)
    once = lines(tmp_path)
    train(tmp_path)
    assert lines(tmp_path) == once


def test_a_half_written_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 1}\n{"iteration": 3}\n{"itera')
    engine_hooks.drop_lines_from(str(path), 3)
    assert path.read_text() == '{"iteration": 1}\n'
