"""The training step: accumulation, clipping, loud failures, loss scaling."""

from __future__ import annotations

import pytest
import torch
from detectron2.engine import HookBase
from torch.utils.checkpoint import checkpoint

from segcore.engine.step import Precision, _ToHost
from segcore.ops.linear import _USE
from tests.segcore.engine.runs import lines, weights, without_dropout
from tests.segcore.toy import toy_trainer
from tests.synchronising import WaitRecorder


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


def test_what_is_computed_again_is_computed_alike(tmp_path, monkeypatch):
    """Activation checkpointing runs a part of the model again in the backward pass: there the same forms must serve."""
    monkeypatch.setattr("segcore.ops.fastest.ONEDNN_IS_FASTER", True)
    trainer = toy_trainer(tmp_path, "SOLVER.MAX_ITER", 1)
    whole = trainer.model.forward

    def recomputed(batch):
        leaf = torch.zeros((), requires_grad=True)  # makes the checkpoint need its backward pass
        return checkpoint(lambda _: used.append(_USE[0]) or whole(batch), leaf, use_reentrant=False)

    used: list[bool] = []
    trainer.model.forward = recomputed
    trainer.train()
    assert used == [True, True]


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
