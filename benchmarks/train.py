#!/usr/bin/env python
"""A training step: ours against the straightforward form of the same model, forward to optimizer step.

The straightforward form uses the reference deformable attention, F.linear, mask logits with gradient for every
query, a matching of its own for every layer and image on expanded masks, losses layer by layer, all texts
encoded at full length, and AdamW without fusion. Each form runs in processes of its own, by turns; the memory
is the largest resident size less that before the first step. Losses are compared on the same points; a second
comparison lets each form choose the most uncertain ones itself, where rounding decides between equals.

    python benchmarks/train.py [--config configs/ade20k/oneformer_r50.yaml] [--size 512] [--batch 2] [--output FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # works without installing

from benchmarks.reporting import measured, report  # noqa: E402

FORMS = ("ours", "straightforward")


# -- the straightforward form ----------------------------------------------------------


def straightforward_losses(model, batch: list[dict]) -> dict[str, Tensor]:
    """The losses of a batch, written equation by equation."""
    images = model._prepare_images(batch)
    canvas = images.tensor.shape[-2:]
    masks = [expand(x["instances"].gt_masks.tensor, canvas) for x in batch]
    labels = [x["instances"].gt_classes for x in batch]
    memory = model.sem_seg_head(model.backbone(images.tensor))
    task = model.embed_tasks([x["task"] for x in batch])
    output = model.sem_seg_head.predictor(memory, task, auxiliary=True)
    criterion, losses = model.criterion, {}
    count = max(sum(map(len, labels)), 1)
    layers = [(output.class_logits, output.mask_logits), *output.auxiliary]
    for layer, (class_logits, mask_logits) in enumerate(layers):
        pairs = [
            match(criterion.matcher, c, m, t, g)
            for c, m, t, g in zip(class_logits, mask_logits, labels, masks)
        ]
        wanted = torch.full(class_logits.shape[:2], class_logits.shape[-1] - 1)
        for image, (query, target) in enumerate(pairs):
            wanted[image, query] = labels[image][target]
        suffix = f"_{layer - 1}" if layer else ""
        losses["loss_ce" + suffix] = criterion.class_weight * F.cross_entropy(
            class_logits.transpose(1, 2), wanted, criterion.empty_weight
        )
        matched = torch.cat([m[query] for m, (query, _) in zip(mask_logits, pairs)])[:, None]
        truth = torch.cat([g[target] for g, (_, target) in zip(masks, pairs)])[:, None]
        bce, dice = point_losses(criterion, matched, truth)
        losses["loss_mask" + suffix] = criterion.mask_weight * bce / count
        losses["loss_dice" + suffix] = criterion.dice_weight * dice / count
    losses["loss_contrastive"] = contrastive(model, batch, output.queries)
    return losses


def expand(masks: Tensor, canvas: torch.Size) -> Tensor:
    return F.pad(masks, (0, canvas[1] - masks.shape[2], 0, canvas[0] - masks.shape[1])).float()


def sample(x: Tensor, points: Tensor) -> Tensor:
    return F.grid_sample(x, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]


@torch.no_grad()
def match(matcher, class_logits: Tensor, mask_logits: Tensor, labels: Tensor, masks: Tensor):
    points = torch.rand(matcher.num_points, 2)[None]
    logits, truth = sample(mask_logits[None], points)[0], sample(masks[None], points)[0]
    positive = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none")
    negative = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none")
    bce = (positive @ truth.T + negative @ (1 - truth).T) / points.shape[1]
    probs = logits.sigmoid()
    dice = 1 - (2 * probs @ truth.T + 1) / (probs.sum(1)[:, None] + truth.sum(1) + 1)
    cost = (
        -matcher.class_weight * class_logits.softmax(1)[:, labels]
        + matcher.mask_weight * bce
        + matcher.dice_weight * dice
    )
    query, target = linear_sum_assignment(cost.numpy())
    order = np.argsort(target)
    return torch.from_numpy(query[order]), torch.from_numpy(target[order])


def point_losses(criterion, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    rows, total = len(logits), criterion.num_points
    count = int(total * criterion.importance_sample_ratio)
    candidates = torch.rand(rows, int(total * criterion.oversample_ratio), 2)
    others = torch.rand(rows, total - count, 2)
    with torch.no_grad():
        nearest = (-sample(logits, candidates)[:, 0].abs()).topk(count, dim=1).indices
        chosen = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
        points = torch.cat((chosen, others), 1)
        truth = sample(masks, points)[:, 0]
    logits = sample(logits, points)[:, 0]
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1)
    probs = logits.sigmoid()
    dice = 1 - (2 * (probs * truth).sum(1) + 1) / (probs.sum(1) + truth.sum(1) + 1)
    return bce.sum(), dice.sum()


def contrastive(model, batch: list[dict], queries: Tensor) -> Tensor:
    """Every text of every image through the encoder, all 77 positions."""
    from oneformer.modeling.criterion import contrastive_loss

    encoder = model.text_encoder
    tokens = torch.cat([x["text_tokens"][x["text_index"]] for x in batch])
    length = tokens.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    x = encoder.token_embedding(tokens) + encoder.positional_embedding[:length]
    for block in encoder.transformer.resblocks:
        x = block(x, causal)
    features = encoder.ln_final(x)[torch.arange(len(x)), tokens.argmax(1)]
    features = model.text_projector(features).unflatten(0, (len(batch), -1))
    texts = torch.cat((features, model.prompt_ctx.weight.expand(len(batch), -1, -1)), 1)
    return model.criterion.contrastive_weight * contrastive_loss(queries, texts, model.criterion.logit_scale)


# -- one process -----------------------------------------------------------------------


def build(config_file: str, settings: Sequence = ()):
    """Config, with KEY, VALUE, KEY, VALUE ... on top, and the model in training."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    import oneformer.modeling  # noqa: F401  (registers the model)
    from oneformer import add_oneformer_config

    cfg = get_cfg()
    add_oneformer_config(cfg)
    cfg.merge_from_file(config_file)
    cfg.merge_from_list(list(settings))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    # Without dropout, so that the losses of the two forms can be compared.
    cfg.MODEL.ONE_FORMER.DROPOUT = cfg.MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_DROPOUT = 0.0
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.0
    torch.manual_seed(0)
    return cfg, build_model(cfg).train()


def make_batch(cfg, size: int, count: int) -> list[dict]:
    """Random pictures with 12 panoptic segments each."""
    from detectron2.structures import Instances

    from oneformer.data.text import text_list, unique_texts
    from oneformer.data.tokenizer import Tokenizer
    from segcore.masks import LayeredMasks

    rng = np.random.default_rng(0)
    classes = cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    length = cfg.MODEL.ONE_FORMER.NUM_OBJECT_QUERIES - cfg.MODEL.TEXT_ENCODER.N_CTX
    y, x = np.mgrid[:size, :size]
    batch = []
    for _ in range(count):
        segments = 12
        distance = [(y - rng.uniform(0, size)) ** 2 + (x - rng.uniform(0, size)) ** 2 for _ in range(segments)]
        number = torch.arange(segments)
        instances = Instances((size, size))
        instances.gt_classes = torch.from_numpy(rng.integers(0, classes, segments))
        maps = torch.from_numpy(np.argmin(distance, 0).astype(np.uint8))[None]
        instances.gt_masks = LayeredMasks(maps, torch.zeros_like(number), number)
        names = [f"class {i}" for i in range(classes)]
        unique, index = unique_texts(text_list(instances.gt_classes.tolist(), names, "panoptic", length))
        batch.append(
            {
                "image": torch.from_numpy(rng.integers(0, 256, (3, size, size)).astype(np.uint8)),
                "task": "panoptic",
                "instances": instances,
                "text_tokens": Tokenizer()(unique),
                "text_index": torch.tensor(index),
            }
        )
    return batch


def evenly_spread(*shape, **_) -> Tensor:
    """The R2 sequence in place of torch.rand: the same points for every row, whoever asks first."""
    ratio = 1.32471795724474602596
    index = torch.arange(1, shape[-2] + 1, dtype=torch.float64)
    points = torch.stack(((0.5 + index / ratio) % 1, (0.5 + index / ratio**2) % 1), -1)
    return points.float().expand(*shape).clone()


@contextlib.contextmanager
def form_of(form: str, exact: bool):
    """The operators of a form; `exact`: the same matrix library for both, so that losses compare."""
    from oneformer.modeling import transformer_decoder
    from segcore.ops import use_backend
    from segcore.ops.fastest import fastest

    if form == "ours":
        with contextlib.nullcontext() if exact else fastest():
            yield lambda model, batch: model(batch)
        return
    without_gradient = transformer_decoder._mask_logits
    transformer_decoder._mask_logits = lambda e, f: torch.einsum("bqc,bchw->bqhw", e, f)
    try:
        with use_backend("reference"):
            yield straightforward_losses
    finally:
        transformer_decoder._mask_logits = without_gradient


def run_form(form: str, arguments: argparse.Namespace) -> dict:
    """Losses on fixed points, and times and memory of whole steps on random ones."""
    from segcore import solver
    from segcore.memory import ALL, keep_freed_memory

    cfg, model = build(arguments.config)
    batch = make_batch(cfg, arguments.size, arguments.batch)
    rand = torch.rand
    torch.rand = evenly_spread
    chosen = model.criterion.importance_sample_ratio
    with form_of(form, exact=True) as losses_of, torch.no_grad():
        own_points = {k: v.item() for k, v in losses_of(model, batch).items()}
        model.criterion.importance_sample_ratio = 0.0
        losses = {k: v.item() for k, v in losses_of(model, batch).items()}
    model.criterion.importance_sample_ratio, torch.rand = chosen, rand
    if form == "ours":
        optimizer = solver.build_optimizer(cfg, model)
    else:
        settings = solver.parameter_settings(model, base_lr=cfg.SOLVER.BASE_LR, weight_decay_base=0.05)
        optimizer = torch.optim.AdamW(solver.parameter_groups(model, settings), fused=False, foreach=False)
    parameters, seconds, before = list(model.parameters()), [], resident()
    if form == "ours":
        # As the training engine does on a CPU; not earlier: what is kept would not be counted.
        keep_freed_memory(most=ALL)
    with form_of(form, exact=False) as losses_of:
        for _ in range(arguments.steps + 1):
            start = time.perf_counter()
            optimizer.zero_grad()
            sum(losses_of(model, batch).values()).backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.01)
            optimizer.step()
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"losses": losses, "losses_own_points": own_points, "seconds": seconds[1:], "memory_mb": peak - before}


def resident() -> float:
    """MiB in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


# -- all -------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default=str(ROOT / "configs/ade20k/oneformer_r50.yaml"))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of each process, after one more")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each form, by turns")
    parser.add_argument("--form", choices=FORMS, help="run this one in this process and print its JSON")
    parser.add_argument("--output", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    if arguments.form:
        print(json.dumps(run_form(arguments.form, arguments)))
        return
    summarise(arguments, by_turns(__file__, "--form", FORMS, arguments))


def by_turns(script: str, flag: str, names: Iterable[str], arguments: argparse.Namespace) -> dict[str, list[dict]]:
    """What `script FLAG NAME` measures, `arguments.rounds` processes for each name."""
    numbers = [x for key in ("size", "batch", "steps") for x in (f"--{key}", str(getattr(arguments, key)))]
    runs: dict[str, list[dict]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name, found in runs.items():
            found.append(measured([sys.executable, script, flag, name, "--config", arguments.config, *numbers]))
    return runs


def largest_difference(losses: dict[str, dict[str, float]]) -> float:
    """Of any loss between the two forms, relative where the loss is more than 1."""
    return max(abs(losses["ours"][k] - v) / max(abs(v), 1) for k, v in losses["straightforward"].items())


def summarise(arguments: argparse.Namespace, runs: dict[str, list[dict]]) -> None:
    losses = {form: run[0]["losses"] for form, run in runs.items()}
    difference = largest_difference(losses)
    own_points = largest_difference({form: run[0]["losses_own_points"] for form, run in runs.items()})
    seconds = {form: statistics.median(s for r in run for s in r["seconds"]) for form, run in runs.items()}
    memory = {form: statistics.median(r["memory_mb"] for r in run) for form, run in runs.items()}
    for form in FORMS:
        print(f"{form:16s} {seconds[form]:7.2f} s a step {memory[form]:8.0f} MiB")
    print(
        f"{seconds['straightforward'] / seconds['ours']:.2f} times as fast, "
        f"{memory['ours'] / memory['straightforward']:.2f} of the memory, losses differ by {difference:.1e}, "
        f"on points of each form's own choice by {own_points:.1e}"
    )
    result = {
        "benchmark": "training_step",
        "config": str(Path(arguments.config).name),
        "size": arguments.size,
        "batch": arguments.batch,
        "seconds": seconds,
        "memory_mb": memory,
        "largest_loss_difference": difference,
        "largest_loss_difference_own_points": own_points,
        "losses": losses,
    }
    report(result, arguments.output)


if __name__ == "__main__":
    main()
