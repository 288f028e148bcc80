"""When a model is evaluated, and with which weights."""

from __future__ import annotations

import json

import pytest

from segcore.engine import evaluate_weights
from tests.segcore.engine.runs import Recorder, train
from tests.segcore.toy import toy_config, toy_trainer


@pytest.mark.parametrize("ema", [False, True])
def test_evaluating_the_saved_weights_reproduces_the_final_metrics(tmp_path, monkeypatch, capsys, ema):
    """The metric here is a sum of weights: which weights were evaluated shows."""

    def measure(model, loader, name, tasks, output_dir, **options):
        return {"sem_seg": {"mIoU": model.head.weight.double().sum().item()}}

    monkeypatch.setattr("segcore.engine.evaluation.evaluate_tasks", measure)
    monkeypatch.setattr("segcore.engine.evaluation.build_test_loader", lambda cfg, name: [])
    opts = ("DATASETS.TEST", "('toy_train',)", "SOLVER.EMA.ENABLED", ema)
    trainer, _ = train(tmp_path, *opts)
    final = json.loads((tmp_path / "metrics_final.json").read_text())
    used = trainer.average.module if ema else trainer.model
    assert final == {"sem_seg": {"mIoU": used.head.weight.double().sum().item()}}
    assert capsys.readouterr().out.count("mIoU") == 1

    again = toy_config(tmp_path / "again", *opts, "MODEL.WEIGHTS", str(tmp_path / "model_final.pth"))
    assert evaluate_weights(again) == final
    assert json.loads((tmp_path / "again" / "metrics_final.json").read_text()) == final
    assert evaluate_weights(toy_config(tmp_path, *opts), resume=True) == final
    with pytest.raises(FileNotFoundError, match="no checkpoint in OUTPUT_DIR"):
        evaluate_weights(toy_config(tmp_path / "empty", *opts), resume=True)


def test_a_run_that_fails_in_its_last_step_is_not_evaluated(tmp_path, monkeypatch):
    monkeypatch.setattr("segcore.engine.trainer.evaluate", lambda cfg, model: pytest.fail("evaluated"))
    trainer = toy_trainer(tmp_path, "DATASETS.TEST", "('toy_train',)")
    trainer.register_hooks([Recorder(die_after=5)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
