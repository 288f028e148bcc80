"""In-context tuning: only the prompt learns, it learns, and the predictor reads what it became."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from seggpt.data.colouring import fixed_colours
from seggpt.evaluation.semantic import nearest_class
from seggpt.modeling import SegGPT, SegGPTTuner
from seggpt.predictor import SegGPTPredictor
from seggpt.tuning import tuned_prompts
from tests.seggpt.small_seggpt import small_model

TINY = {"img_size": (64, 32), "depth": 2, "embed_dim": 32, "num_heads": 2, "merge_block": 0, "out_blocks": (0, 1)}


@pytest.fixture
def task():
    """Two classes: bright pixels and dark ones."""
    rng = np.random.default_rng(0)
    colours = fixed_colours(2)
    batch = []
    for _ in range(2):
        labels = rng.random((2, 2)).round().astype(int).repeat(16, 0).repeat(16, 1)
        image = np.where(labels, 200, 40)[None].repeat(3, 0) + rng.integers(0, 20, (3, 32, 32))
        batch.append(
            {
                "image": torch.from_numpy(image.astype(np.uint8)),
                "target": torch.from_numpy(colours[labels].transpose(2, 0, 1).copy()),
                "valid": torch.ones(3, 32, 32, dtype=torch.uint8),
            }
        )
    return batch, colours


def test_only_the_prompt_learns_and_the_loss_falls(task):
    batch, _ = task
    torch.manual_seed(0)
    # Not the goldens' weights: those are so small that a prompt hardly matters.
    network = SegGPT(patch_size=8, decoder_dim=8, init="matching", **TINY)
    tuner = SegGPTTuner(model=network, beta=1.0).train()
    assert not tuner.model.training
    learnt = {name for name, p in tuner.named_parameters() if p.requires_grad}
    assert learnt == {"prompt_image", "prompt_target"}
    before = {k: v.clone() for k, v in tuner.model.state_dict().items()}
    optimizer = torch.optim.AdamW([tuner.prompt_image, tuner.prompt_target], lr=0.1, weight_decay=0)
    losses = []
    for _ in range(150):
        loss = tuner(batch)["loss_inpaint"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.98 * losses[0]
    assert all(torch.equal(v, before[k]) for k, v in tuner.model.state_dict().items())


def test_a_learnt_prompt_beats_every_example_of_its_task():
    """On questions that it did not learn from; the examples are pairs that it did."""
    torch.manual_seed(0)
    network = SegGPT(patch_size=8, decoder_dim=8, init="matching", **TINY)
    rng, colours = np.random.default_rng(3), fixed_colours(2)

    def pair() -> dict:
        labels = rng.random((2, 2)).round().astype(int).repeat(16, 0).repeat(16, 1)
        image = np.where(labels, 200, 40)[None].repeat(3, 0) + rng.integers(0, 20, (3, 32, 32))
        target = torch.from_numpy(colours[labels].transpose(2, 0, 1).copy())
        valid = torch.ones(3, 32, 32, dtype=torch.uint8)
        return {"image": torch.from_numpy(image.astype(np.uint8)), "target": target, "valid": valid}

    examples, questions = [pair() for _ in range(8)], [pair() for _ in range(8)]
    tuner = SegGPTTuner(model=network, beta=1.0).train()

    @torch.no_grad()
    def error() -> float:
        return tuner(questions)["loss_inpaint"].item()

    errors = []
    for one in examples:
        tuner._start_from(network.normalize(one["image"]), network.normalize(one["target"]))
        errors.append(error())
    tuner.started.fill_(False)
    optimizer = torch.optim.AdamW([tuner.prompt_image, tuner.prompt_target], lr=0.05, weight_decay=0)
    for _ in range(80):
        batch = [examples[i] for i in rng.choice(8, 4, replace=False)]
        loss = tuner(batch)["loss_inpaint"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error() < 0.99 * min(errors)


def test_void_pixels_do_not_pull(task):
    batch, _ = task
    tuner = SegGPTTuner(model=small_model(**TINY), beta=1.0).train()
    for one in batch:
        one["valid"].zero_()
    tuner(batch)["loss_inpaint"].backward()
    assert not tuner.prompt_image.grad.any() and not tuner.prompt_target.grad.any()


def test_the_predictor_reads_the_saved_prompt(task, tmp_path):
    batch, colours = task
    tuner = SegGPTTuner(model=small_model(**TINY)).train()
    tuner(batch)  # takes its first values from the first pair
    assert torch.equal(tuner.prompt_image, tuner.model.normalize(batch[0]["image"]))
    predictor = SegGPTPredictor(model=tuner.model)
    prompts = tuned_prompts(tuner, colours)
    prompts.save(tmp_path / "task.safetensors")
    image = batch[1]["image"].permute(1, 2, 0).numpy()
    found = predictor(image, predictor.load_prompts(tmp_path / "task.safetensors"))
    assert (found.painting == predictor(image, prompts).painting).all()
    mask = batch[0]["target"].permute(1, 2, 0).numpy()
    by_hand = predictor.encode_prompts(batch[0]["image"].permute(1, 2, 0).numpy(), mask, type="semantic")
    assert np.abs(found.painting.astype(int) - predictor(image, by_hand).painting).max() <= 1


def test_every_pixel_gets_the_class_of_the_nearest_colour():
    colours = fixed_colours(150)
    labels = np.arange(150).reshape(10, 15)
    noisy = colours[labels].astype(int) + np.random.default_rng(0).integers(-6, 7, (10, 15, 3))
    assert (nearest_class(noisy.clip(0, 255).astype(np.uint8), colours) == labels).all()
