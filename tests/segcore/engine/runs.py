"""Trainings of the toy model, and what the tests of the engine read of them."""

from __future__ import annotations

import json

import torch
from detectron2.engine import HookBase

from segcore.engine import hooks as engine_hooks
from tests.segcore.toy import toy_trainer


def weights(trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def lines(folder) -> list[dict]:
    """The lines of metrics.json without the times."""
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "time" not in k and "eta" not in k} for row in rows]


class Recorder(HookBase):
    """The loss of each iteration, and on request a death after one of them."""

    def __init__(self, die_after: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.die_after = die_after

    def after_step(self) -> None:
        self.losses[self.trainer.iter] = self.trainer.storage.latest()["total_loss"][0]
        if self.trainer.iter == self.die_after:
            raise KeyboardInterrupt


def train(folder, *opts, resume=False, die_after=None, write_period=3):
    trainer = toy_trainer(folder, *opts)
    recorder = Recorder(die_after)
    trainer.register_hooks([recorder])
    for hook in trainer._hooks:
        if isinstance(hook, engine_hooks.WriteMetrics):
            hook._period = write_period
    trainer.resume_or_load(resume)
    try:
        trainer.train()
    except KeyboardInterrupt:
        assert die_after is not None
    return trainer, recorder.losses


def without_dropout(trainer):
    trainer.model.drop.p = 0.0
    return trainer
