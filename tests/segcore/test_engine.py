"""The training loop on a toy model: exactness, accumulation, averages, loud failures, clear errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.engine import HookBase
from torch import nn

from segcore.config import add_segcore_config
from segcore.engine import ConfigError, build_config, evaluate_weights, main
from segcore.engine import hooks as engine_hooks
from segcore.engine.ema import WeightAverage, load_average
from segcore.engine.launch import check_processes
from segcore.engine.replay import (
    ReplayBatchSampler,
    ReplayDataset,
    Sample,
    orientation_groups,
    sample_randomness,
)
from segcore.engine.step import Precision, _ToHost
from tests.segcore.toy import arguments, toy_config, toy_items, toy_process, toy_trainer
from tests.synchronising import WaitRecorder

REPOSITORY = Path(__file__).resolve().parents[2]


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


# -- resumption -----------------------------------------------------------------------


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


# -- batches ----------------------------------------------------------------------------


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


# -- the step -----------------------------------------------------------------------------


def without_dropout(trainer):
    trainer.model.drop.p = 0.0
    return trainer


def test_accumulated_batches_equal_one_big_batch(tmp_path):
    common = ("DATALOADER.ASPECT_RATIO_GROUPING", False, "SOLVER.CLIP_GRADIENTS.ENABLED", False)
    big = without_dropout(toy_trainer(tmp_path / "big", *common))
    small = without_dropout(
        toy_trainer(tmp_path / "small", *common, "SOLVER.IMS_PER_BATCH", 1, "SOLVER.ACCUMULATE", 4)
    )
    for trainer in (big, small):
        trainer.train()
    assert small._trainer.accumulate == 4
    # fp32 sums in another order: a few units in the last place per step
    torch.testing.assert_close(weights(small), weights(big), rtol=1e-5, atol=1e-6)
    assert lines(tmp_path / "small")[-1]["total_loss"] == pytest.approx(
        lines(tmp_path / "big")[-1]["total_loss"], rel=1e-5
    )


def test_the_step_clips(tmp_path):
    """SGD with rate 1: the step's length is the clipped norm, whatever the loss."""
    opts = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", 1.0, "SOLVER.BACKBONE_MULTIPLIER", 1.0,
            "SOLVER.MOMENTUM", 0.0, "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.MAX_ITER", 1,
            "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.01)  # fmt: skip
    trainer = toy_trainer(tmp_path, *opts)
    before = weights(trainer)
    trainer.train()
    assert lines(tmp_path)[-1]["grad_norm"] > 1
    assert (weights(trainer) - before).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_nan_names_the_losses_and_the_images(tmp_path):
    trainer = toy_trainer(tmp_path, "SOLVER.CHECKPOINT_PERIOD", 1)
    trainer.model.poison = "picture_5.png"
    seen = {}

    class Watch(HookBase):
        def before_step(self):
            seen["weights"] = weights(self.trainer)
            seen["iteration"] = self.trainer.iter

    trainer.register_hooks([Watch()])
    message = r"loss_square = nan on the images .*picture_5\.png"
    with pytest.raises(FloatingPointError, match=message) as error:
        trainer.train()
    assert f"iteration {seen['iteration']}:" in str(error.value)
    assert "loss_abs" not in str(error.value)
    assert torch.equal(weights(trainer), seen["weights"])
    assert not (tmp_path / f"model_{seen['iteration']:07d}.pth").exists()


def test_a_step_reads_nothing_before_its_update_is_queued(tmp_path, monkeypatch):
    """Forward, backward, clipping and update run without an operator that waits for the device."""
    trainer = toy_trainer(tmp_path, "SOLVER.MAX_ITER", 3)
    step, recorder, order = trainer._trainer, WaitRecorder(), []
    update, read = step.optimizer.step, _ToHost.read
    monkeypatch.setattr(step.optimizer, "step", lambda: (order.append("update"), update()))

    def read_unrecorded(self):
        order.append("read")
        found = list(recorder.found)
        numbers = read(self)
        recorder.found[:] = found
        return numbers

    monkeypatch.setattr(_ToHost, "read", read_unrecorded)
    forward_backward = step._forward_backward

    def recorded(batch, number):
        recorder.found.clear()  # the data's: on the CPU whatever the device
        return forward_backward(batch, number)

    monkeypatch.setattr(step, "_forward_backward", recorded)
    with recorder:
        trainer.train()
    assert order == ["update", "read"] * 3
    assert recorder.found == []  # in the last step, and after it
    with recorder:
        assert bool(torch.isfinite(torch.ones(2)).all())
    assert recorder.found  # it does see one


def test_the_device_itself_leaves_the_weights_alone(tmp_path, monkeypatch):
    """As if the process never looked at the numbers."""
    trainer = toy_trainer(tmp_path, "SOLVER.MAX_ITER", 40)
    trainer.model.poison = "picture_5.png"
    monkeypatch.setattr(trainer._trainer, "_check", lambda *_: None)
    trainer.train()
    assert torch.isfinite(weights(trainer)).all()
    steps = {int(state["step"]) for state in trainer._trainer.optimizer.state.values()}
    assert len(steps) == 1 and steps.pop() < 40  # the update of a step that was left out is not counted


def test_a_bad_gradient_is_named_where_the_losses_are_fine(tmp_path):
    trainer = toy_trainer(tmp_path)
    trainer.model.query.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(FloatingPointError, match=r"gradient of query.weight is not.*picture_\d.png"):
        trainer.train()


def test_losses_must_keep_their_names(tmp_path):
    trainer = toy_trainer(tmp_path)
    forward = trainer.model.forward
    calls = []

    def changing(batch):
        calls.append(1)
        losses = forward(batch)
        return losses if len(calls) < 3 else {"loss_abs": losses["loss_abs"]}

    trainer.model.forward = changing
    with pytest.raises(ValueError, match="before it was"):
        trainer.train()


def test_fp16_on_cpu_is_refused():
    with pytest.raises(ValueError, match=r"float16 trains on CUDA only.*bfloat16"):
        Precision("cpu", torch.float16)


def test_bf16_autocast_runs_on_the_cpu(tmp_path):
    trainer = toy_trainer(tmp_path, "SOLVER.AMP.ENABLED", True, "SOLVER.AMP.DTYPE", "bfloat16")
    dtypes = []
    trainer.model.head.register_forward_hook(lambda module, inputs, output: dtypes.append(output.dtype))
    trainer.train()
    assert set(dtypes) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def scaled(folder, *opts, device="cpu"):
    """A trainer with a loss scaler; fp16's business, but the scaler itself works anywhere."""
    trainer = toy_trainer(folder, "MODEL.DEVICE", device, "SOLVER.MAX_ITER", 60, *opts)
    trainer._trainer.grad_scaler = torch.amp.GradScaler(device)
    return trainer


def overflow(trainer, iterations) -> None:
    trainer.model.query.weight.register_hook(lambda g: g * float("inf") if trainer.iter in iterations else g)


def test_an_overflow_is_skipped_and_the_scale_halved(tmp_path):
    trainer = scaled(tmp_path)
    overflow(trainer, {2, 3})
    seen = {}

    class Watch(HookBase):
        def after_step(self):
            seen[self.trainer.iter] = weights(self.trainer)

    trainer.register_hooks([Watch()])
    trainer.train()
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[3], seen[4])
    assert trainer._trainer.grad_scaler.get_scale() == 2**14


def test_an_overflow_that_lasts_is_loud(tmp_path):
    trainer = scaled(tmp_path)
    overflow(trainer, range(60))
    with pytest.raises(FloatingPointError, match=r"iteration 30: .*query\.weight"):
        trainer.train()


def test_scaled_gradients_are_clipped_by_their_true_norm(tmp_path):
    plain = toy_trainer(tmp_path / "plain", "SOLVER.MAX_ITER", 60)
    plain.train()
    trainer = scaled(tmp_path / "scaled")
    trainer.train()
    torch.testing.assert_close(weights(trainer), weights(plain), rtol=1e-4, atol=1e-6)


@pytest.mark.gpu
def test_fp16_trains_on_the_gpu(tmp_path):
    trainer = toy_trainer(tmp_path, "MODEL.DEVICE", "cuda", "SOLVER.AMP.ENABLED", True, "SOLVER.MAX_ITER", 60)
    trainer.train()
    assert trainer._trainer.grad_scaler.get_scale() > 1
    assert torch.isfinite(weights(trainer)).all()


# -- averaged weights -------------------------------------------------------------------------


def test_average_by_hand():
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.5)
    expected = None
    for step, value in enumerate([1.0, 5.0, 2.0]):
        model.weight.data.fill_(value)
        average.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)


def test_average_copies_buffers():
    model = nn.BatchNorm1d(2)
    average = WeightAverage(model, decay=0.9)
    for _ in range(3):
        model(torch.randn(4, 2) + 3)
        average.update_parameters(model)
    assert torch.equal(average.module.running_mean, model.running_mean)
    assert int(average.module.num_batches_tracked) == 3


def test_average_is_saved_and_evaluated(tmp_path, monkeypatch):
    evaluated = []
    monkeypatch.setattr("segcore.engine.trainer.evaluate", lambda cfg, model: evaluated.append(model) or {})
    trainer = toy_trainer(tmp_path, "SOLVER.EMA.ENABLED", True, "DATASETS.TEST", "('toy_train',)")
    trainer.train()
    assert evaluated == [trainer.average.module]
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    other = toy_trainer(tmp_path / "other").model
    load_average(other, saved["ema"])
    for name, value in other.state_dict().items():
        assert torch.equal(value, trainer.average.module.state_dict()[name])
    assert not torch.equal(saved["model"]["head.weight"], other.head.weight)


def test_an_average_of_another_model_is_refused():
    average = WeightAverage(nn.Linear(2, 2, bias=False), 0.9)
    with pytest.raises(ValueError, match="lack bias"):
        load_average(nn.Linear(2, 2), average.state_dict())


# -- evaluation ---------------------------------------------------------------------------------


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


# -- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["SOLVER.BASELR", "1"], r"in the command line: SOLVER.BASELR \(did you mean SOLVER.BASE_LR\?\)"),
        (["SOLVR.MAX_ITER", "1"], "did you mean SOLVER.MAX_ITER"),
        (["ZZZ", "1"], "unknown config key in the command line: ZZZ$"),
        (["SOLVER.MAX_ITER"], "has no value"),
        (["SOLVER.MAX_ITER", "many"], "SOLVER.MAX_ITER"),
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER is 0; expected at least 1"),
        (["SOLVER.ACCUMULATE", "0"], "SOLVER.ACCUMULATE"),
        (["SOLVER.EMA.DECAY", "1.0"], "SOLVER.EMA.DECAY"),
        (["SOLVER.OPTIMIZER", "ADAM"], "ADAMW"),
        (["SOLVER.LR_SCHEDULER_NAME", "Poly"], "WarmupPolyLR"),
        (["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "all"], "full_model"),
        (["SOLVER.AMP.ENABLED", "True"], "float16 trains on CUDA only"),
        (["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.DTYPE", "fp8"], "bfloat16"),
        (["DATASETS.TRAIN", "('toy_trian',)"], "did you mean toy_train"),
        (["DATASETS.TRAIN", "()"], "nothing to train on"),
        (["DATASETS.TEST", "('nothing_like_it',)"], "DATASETS.TEST names 'nothing_like_it'"),
        (["TEST.TASKS", "['panoptik']"], "TEST.TASKS"),
        (["TEST.TASKS", "()"], "TEST.TASKS"),
        (["INPUT.DATASET_MAPPER_NAME", "ToyMaper"], "did you mean ToyMapper"),
        (["MODEL.META_ARCHITECTURE", "ToySegmentor"], "did you mean ToySegmenter"),
        (["DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"], "replayed"),
        (["OUTPUT_WRITERS", "['jsn']"], "OUTPUT_WRITERS names 'jsn'"),
    ],
)  # fmt: skip
def test_one_clear_error(tmp_path, opts, message):
    with pytest.raises(ConfigError, match=message) as error:
        toy_config(tmp_path / "out", *opts)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_probabilities_must_sum_to_one():
    def add(cfg):
        add_segcore_config(cfg)
        cfg.INPUT.TASK_PROB = type(cfg)({"PANOPTIC": 0.5, "INSTANCE": 0.5, "SEMANTIC": 0.5})

    opts = ["MODEL.META_ARCHITECTURE", "ToySegmenter", "DATASETS.TRAIN", "('toy_train',)"]
    with pytest.raises(ConfigError, match=r"sum to 1, but they sum to 1.5"):
        build_config(arguments(opts=opts), [add])


def test_wandb_is_asked_for_but_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'wandb'.*pip install wandb"):
        toy_config(tmp_path, "OUTPUT_WRITERS", "['wandb']")


def test_a_file_with_an_unknown_key(tmp_path):
    (tmp_path / "base.yaml").write_text("VERSION: 2\nSOLVER: {POLY_POWER: 0.9}\n")
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\nMODEL: {META_ARCHITECTURE: ToySegmenter}\n")
    with pytest.raises(ConfigError, match=r"SOLVER.POLY_POWER \(did you mean SOLVER.POLY_LR_POWER\?\)"):
        build_config(arguments(config_file=str(tmp_path / "config.yaml")), [add_segcore_config])


def test_evaluation_needs_weights(tmp_path):
    opts = ["MODEL.META_ARCHITECTURE", "ToySegmenter", "DATASETS.TEST", "('toy_train',)",
            "INPUT.DATASET_MAPPER_NAME", "ToyMapper"]  # fmt: skip
    with pytest.raises(ConfigError, match="--eval-only needs weights"):
        build_config(arguments(opts=opts, eval_only=True), [add_segcore_config])


def test_evaluation_builds_the_model_without_its_training_parts(tmp_path):
    def add(cfg):
        add_segcore_config(cfg)
        cfg.MODEL.IS_TRAIN = True

    opts = ["MODEL.META_ARCHITECTURE", "ToySegmenter", "DATASETS.TEST", "('toy_train',)",
            "DATASETS.TRAIN", "('toy_train',)", "MODEL.WEIGHTS", "x.pth",
            "INPUT.DATASET_MAPPER_NAME", "ToyMapper"]  # fmt: skip
    assert not build_config(arguments(opts=opts, eval_only=True), [add]).MODEL.IS_TRAIN
    assert build_config(arguments(opts=opts), [add]).MODEL.IS_TRAIN


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "META_ARCHITECTURE is not set; expected one of ['Toy']"),
        (["MODEL.META_ARCHITECTURE", "Mask2Former"], "META_ARCHITECTURE is 'Mask2Former'"),
        (["--config-file", "nowhere.yaml"], "config file 'nowhere.yaml' does not exist"),
    ],
)
def test_the_command_prints_the_error(argv, message, capsys):
    assert main({"Toy": lambda: add_segcore_config}, argv) == 2
    assert message in capsys.readouterr().err


def test_processes_must_share_the_batch(tmp_path, monkeypatch):
    cfg = toy_config(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_processes(arguments(num_gpus=2), cfg)
    with pytest.raises(ConfigError, match="IMS_PER_BATCH is 4, which 3 processes"):
        check_processes(arguments(num_gpus=3), cfg)
    with pytest.raises(ConfigError, match="--dist-url"):
        check_processes(arguments(num_machines=2), cfg)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="torchrun starts the processes"):
        check_processes(arguments(num_gpus=2), cfg)


# -- several processes --------------------------------------------------------------------------


def in_two_processes(folder) -> list[str]:
    """Run the toy's `main` in two forked processes with gloo; returns the error of each."""
    context = torch.multiprocessing.get_context("fork")  # starts at once: everything is imported already
    processes = [context.Process(target=toy_process, args=(str(folder), rank, 2)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
        process.kill()  # a deadlock is a failure, not a hang of the suite
    return [(folder / f"error_{rank}.txt").read_text() for rank in range(2)]


def test_two_processes_are_one(tmp_path):
    """The weights and curve of one process; then a NaN of one stops both with the same words."""
    errors = in_two_processes(tmp_path)
    one = without_dropout(toy_trainer(tmp_path / "one"))
    one.train()
    two = torch.load(tmp_path / "model_final.pth", weights_only=True)["model"]
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(lines(tmp_path), lines(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)

    assert errors[0] == errors[1]
    assert "loss_square = nan on the images" in errors[0] and "picture_5.png" in errors[0]


@pytest.mark.slow
def test_torchrun_gives_the_ranks(tmp_path):
    """The command itself, under torchrun: both ranks build, share the batch, and one of them writes."""
    opts = ["MODEL.META_ARCHITECTURE", "ToySegmenter", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path),
            "INPUT.DATASET_MAPPER_NAME", "ToyMapper", "DATASETS.TRAIN", "('toy_train',)",
            "SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "4", "DATASETS.TEST", "()",
            "DATALOADER.NUM_WORKERS", "0"]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "-m", "tests.segcore.toy", *opts]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "World size: 2" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "model_final.pth").exists()


def test_toy_pictures_have_both_orientations():
    assert set(orientation_groups(toy_items())) == {0, 1}
