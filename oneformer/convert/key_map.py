"""The two spellings of OneFormer's tensors: the official one, which is ours, and Hugging Face's.

Both directions come from the rules in `key_rules`.  Their spelling is that of the
files on the Hugging Face hub; transformers >= 5 renames parts of Swin in memory
and renames them back when it saves.  Files written by hand from such a model are
understood too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from .key_rules import ENCODER, OUR_SIGNATURES, THEIR_SIGNATURES, fused_rules, plain_rules

# Modules of ours that MODEL.IS_TRAIN False does not build.
TRAINING_ONLY = ("text_encoder.", "text_projector.", "prompt_ctx.")

# transformers >= 5 in memory -> on disk.
_SWIN_IN_MEMORY = [
    (re.compile(re.escape(f"{ENCODER}.swin.")), f"{ENCODER}."),
    (re.compile(r"\.attention\.q_proj\."), ".attention.self.query."),
    (re.compile(r"\.attention\.k_proj\."), ".attention.self.key."),
    (re.compile(r"\.attention\.v_proj\."), ".attention.self.value."),
    (re.compile(r"\.attention\.o_proj\."), ".attention.output.dense."),
    (re.compile(r"\.attention\.relative_position_bias\."), ".attention.self."),
    (re.compile(r"(\.blocks\.\d+)\.mlp\.fc1\."), r"\1.intermediate.dense."),
    (re.compile(r"(\.blocks\.\d+)\.mlp\.fc2\."), r"\1.output.dense."),
]
# A norm that SwinBackbone builds and never uses.
_SWIN_UNUSED = f"{ENCODER}.swin.layernorm"


def is_huggingface(state: Iterable[str]) -> bool:
    """Whether the keys are those of transformers' OneFormerForUniversalSegmentation."""
    return any(key.startswith(f"{ENCODER}.") for key in state)


def from_huggingface(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Hugging Face's keys to ours; inverse of `to_huggingface`.

    Raises:
        ValueError: for a backbone other than Swin, DiNAT, ConvNeXt or ResNet, a
            key that no rule knows, or an incomplete query-key-value triple.
    """
    state = {
        _on_disk(key): value
        for key, value in state.items()
        if not key.startswith((_SWIN_UNUSED, f"{ENCODER}.layernorm."))
    }
    family = _family(state, THEIR_SIGNATURES)
    fused = [
        (_compile(theirs), ours, position)
        for ours, triple in fused_rules(family)
        for position, theirs in enumerate(triple)
    ]
    plain = [(_compile(theirs), ours) for ours, theirs in plain_rules(family)]
    result: dict[str, torch.Tensor] = {}
    parts: dict[str, dict[int, torch.Tensor]] = {}
    for key, value in state.items():
        for pattern, ours, position in fused:
            if found := pattern.fullmatch(key):
                parts.setdefault(_fill(ours, found), {})[position] = value
                break
        else:
            result[_rename(key, plain)] = value
    for key, triple in parts.items():
        if len(triple) != 3:
            raise ValueError(
                f"the Hugging Face checkpoint has {len(triple)} of the 3 tensors (query, key, value) "
                f"that make {key}; it is incomplete"
            )
        result[key] = torch.cat([triple[position] for position in range(3)])
    return result


def to_huggingface(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our keys to Hugging Face's, complete: nothing is missing when `transformers` loads them.

    What they have and we do not is added: Swin's unused final norm (an identity)
    and the step counters of batch norms.  Our index buffers are left out.

    Raises:
        ValueError: as `from_huggingface`.
    """
    family = _family(state, OUR_SIGNATURES)
    fused = [(_compile(ours), triple) for ours, triple in fused_rules(family)]
    plain = [(_compile(ours), theirs) for ours, theirs in plain_rules(family)]
    result: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        if key.endswith(".relative_position_index"):
            continue
        for pattern, triple in fused:
            if found := pattern.fullmatch(key):
                result.update(zip((_fill(theirs, found) for theirs in triple), value.chunk(3), strict=True))
                break
        else:
            result[_rename(key, plain)] = value
    _add_foreign(result, family)
    return result


def backbone_family(state: Iterable[str]) -> str:
    """Hugging Face's `model_type` of our backbone: swin, dinat, convnext or resnet.

    Raises:
        ValueError: for any other backbone.
    """
    return _family(state, OUR_SIGNATURES)


def _family(state: Iterable[str], signatures: Mapping[str, str]) -> str:
    keys = set(state)
    for family, signature in signatures.items():
        if signature in keys:
            return family
    raise ValueError(
        "no Hugging Face key map for this backbone; known are "
        f"{', '.join(signatures)} (recognised by {', '.join(signatures.values())})"
    )


def _compile(prefix: str) -> re.Pattern:
    """A prefix rule as a pattern: `{i}`, `{j}` are indices, and the rest of the key is kept."""
    pattern = re.escape(prefix).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{j\}", r"(?P<j>\d+)")
    rest = "(?P<rest>.+)" if prefix.endswith((".", "_")) else r"(?P<rest>(?:\..+)?)"
    return re.compile(pattern + rest)


def _fill(prefix: str, found: re.Match) -> str:
    groups = found.groupdict()
    for name in ("i", "j"):
        prefix = prefix.replace(f"{{{name}}}", groups.get(name) or "")
    return prefix + groups["rest"]


def _rename(key: str, rules: list[tuple[re.Pattern, str]]) -> str:
    for pattern, target in rules:
        if found := pattern.fullmatch(key):
            return _fill(target, found)
    raise ValueError(
        f"no rule of the Hugging Face key map knows the tensor {key!r}; "
        "the model is not the OneFormer that transformers implements"
    )


def _on_disk(key: str) -> str:
    if not key.startswith(f"{ENCODER}."):
        return key
    for pattern, replacement in _SWIN_IN_MEMORY:
        key = pattern.sub(replacement, key)
    return key


def _add_foreign(result: dict[str, torch.Tensor], family: str) -> None:
    if family == "swin":
        width = result[f"{ENCODER}.hidden_states_norms.stage4.weight"].shape
        result[f"{_SWIN_UNUSED}.weight"] = torch.ones(width)
        result[f"{_SWIN_UNUSED}.bias"] = torch.zeros(width)
    if family == "resnet":
        for key in [key for key in result if key.endswith(".running_var")]:
            result.setdefault(
                key.replace(".running_var", ".num_batches_tracked"), torch.zeros((), dtype=torch.int64)
            )
