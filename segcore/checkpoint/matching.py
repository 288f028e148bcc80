"""The check of a state dict against a model, before anything is copied.

The rule: of each top-level module (`backbone`, `sem_seg_head`, ...) a checkpoint
holds every tensor or none.  A module that is absent keeps its initial values and
is reported; a module that fits in part means another architecture, and then
nothing at all is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from .converters import ModelRules

# Buffers that the constructor computes from the configuration; files may or may not hold them.
_DERIVED = re.compile(r"(^|.*\.)(relative_position_index|num_batches_tracked|pixel_mean|pixel_std|attn_mask)")
_SHOWN = 8


@dataclass
class LoadReport:
    """What a load did; `lines()` says it.

    Attributes:
        source: the path that was loaded.
        format: "native" or the name of the converter.
        matched: keys copied into the model.
        missing: model keys that the checkpoint lacks; they keep their initial values.
        unexpected: checkpoint keys of modules that the model does not have.
        training_only_ignored: training-only keys dropped by an inference model.
        training_only_missing: training-only keys that a training model has to start afresh.
        class_head_reset: class-head keys that keep their initial values because
            the number of classes differs.
        num_classes: (checkpoint's, model's) first dimension of the class head if reset.
    """

    source: str
    format: str = "native"
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    training_only_ignored: list[str] = field(default_factory=list)
    training_only_missing: list[str] = field(default_factory=list)
    class_head_reset: list[str] = field(default_factory=list)
    num_classes: tuple[int, int] | None = None

    def lines(self) -> list[str]:
        """The report as log lines."""
        total = (
            len(self.matched)
            + len(self.missing)
            + len(self.training_only_missing)
            + len(self.class_head_reset)
        )
        lines = [
            f"loaded {len(self.matched)} of the model's {total} tensors from {self.source} "
            f"(format: {self.format}); {len(self.missing)} missing, {len(self.unexpected)} unexpected"
        ]
        if self.class_head_reset:
            got, expected = self.num_classes
            lines.append(
                f"class head re-initialised: the checkpoint has {got} outputs, the model {expected} "
                f"({', '.join(self.class_head_reset)})"
            )
        if self.training_only_ignored:
            lines.append(
                f"ignored {len(self.training_only_ignored)} training-only tensors "
                f"({_modules(self.training_only_ignored)}): the model is built for inference"
            )
        if self.training_only_missing:
            lines.append(
                f"the checkpoint has none of the {len(self.training_only_missing)} training-only tensors "
                f"({_modules(self.training_only_missing)}): they start from their initial values"
            )
        if self.missing:
            lines.append(f"missing in the checkpoint, left at their initial values: {_grouped(self.missing)}")
        if self.unexpected:
            lines.append(f"in the checkpoint only, not used: {_grouped(self.unexpected)}")
        return lines

    @property
    def is_complete(self) -> bool:
        """Whether every tensor of the model came from the checkpoint and none was left over."""
        return not (self.missing or self.unexpected or self.training_only_missing or self.class_head_reset)


def match(
    state: Mapping[str, torch.Tensor],
    model_state: Mapping[str, torch.Tensor],
    rules: ModelRules,
    source: str,
    format: str = "native",
    optional: tuple[re.Pattern, ...] = (),
) -> tuple[dict[str, torch.Tensor], LoadReport]:
    """Decide what of `state` goes into the model.

    Args:
        state: the checkpoint in the model's key spelling.
        model_state: the model's own state dict.
        rules: the model's rules, see `converters.register_model_rules`.
        source, format: for the report.
        optional: model keys that the format does not have.

    Returns:
        The tensors to copy, and the report.

    Raises:
        ValueError: if the checkpoint is of another architecture or shape; it
            lists the first keys that do not fit.
    """
    report = LoadReport(source, format)
    shared = [key for key in model_state if key in state]
    bad, head = _compare_shapes(shared, state, model_state, rules)
    absent = [key for key in model_state if key not in state and not _DERIVED.fullmatch(key)]
    surplus = [key for key in state if key not in model_state and not _DERIVED.fullmatch(key)]
    _sort_absent(absent, {_top(key) for key in state}, report, rules)
    _sort_surplus(surplus, {_top(key) for key in model_state}, report, rules)

    tolerated = {key for key in report.missing if any(pattern.fullmatch(key) for pattern in optional)}
    partial = _partial_modules(shared, set(report.missing) - tolerated, report.unexpected)
    if not shared or bad or partial:
        raise ValueError(_refusal(state, model_state, source, bad, partial))

    if head:
        report.class_head_reset = [key for key in model_state if rules.is_class_head(key)]
        report.num_classes = head[0]
        report.missing = [key for key in report.missing if key not in report.class_head_reset]
    reset = set(report.class_head_reset)
    report.matched = [key for key in shared if key not in reset]
    return {key: state[key] for key in report.matched}, report


def _compare_shapes(shared, state, model_state, rules):
    """Keys of another shape, and (got, expected) sizes where only the number of classes differs."""
    bad, head = [], []
    for key in shared:
        got, expected = tuple(state[key].shape), tuple(model_state[key].shape)
        if got == expected:
            continue
        if rules.is_class_head(key) and len(got) == len(expected) > 0 and got[1:] == expected[1:]:
            head.append((got[0], expected[0]))
        else:
            bad.append(key)
    return bad, head


def _sort_absent(absent, modules, report, rules):
    for key in absent:
        afresh = rules.is_training_only(key) and _top(key) not in modules
        (report.training_only_missing if afresh else report.missing).append(key)


def _sort_surplus(surplus, modules, report, rules):
    for key in surplus:
        unused = rules.is_training_only(key) and _top(key) not in modules
        (report.training_only_ignored if unused else report.unexpected).append(key)


def _partial_modules(shared, missing, unexpected) -> list[str]:
    """The keys of top-level modules that the checkpoint fits in part only."""
    present = {_top(key) for key in shared} | {_top(key) for key in unexpected}
    expected = {_top(key) for key in shared} | {_top(key) for key in missing}
    return [key for key in (*sorted(missing), *unexpected) if _top(key) in present and _top(key) in expected]


def _top(key: str) -> str:
    return key.split(".", 1)[0]


def _refusal(state, model_state, source, bad, partial) -> str:
    lines = [f"{source} is a checkpoint of another architecture or shape; nothing was loaded."]
    details = [
        f"{key}: got {tuple(state[key].shape)}, expected {tuple(model_state[key].shape)}" for key in bad
    ]
    details += [
        f"{key}: got {tuple(state[key].shape)}, the model has no such tensor"
        if key in state
        else f"{key}: not in the checkpoint, expected {tuple(model_state[key].shape)}"
        for key in partial
    ]
    if not details:  # not one key in common
        details = [
            f"{key}: got {tuple(value.shape)}, the model has no such tensor" for key, value in state.items()
        ]
    lines += [f"  {detail}" for detail in details[:_SHOWN]]
    if len(details) > _SHOWN:
        lines.append(f"  ... and {len(details) - _SHOWN} more")
    lines.append(
        "Build the model with the config that the checkpoint was trained with, or give other weights."
    )
    return "\n".join(lines)


def _modules(keys: list[str]) -> str:
    return ", ".join(dict.fromkeys(_top(key) for key in keys))


def _grouped(keys: list[str]) -> str:
    """`module (n tensors)` of each top-level module, and the keys themselves when there are few."""
    if len(keys) <= _SHOWN:
        return ", ".join(keys)
    counts: dict[str, int] = {}
    for key in keys:
        counts[_top(key)] = counts.get(_top(key), 0) + 1
    return ", ".join(f"{module}.* ({count})" for module, count in counts.items())
