"""The two spellings of OneFormer's tensors: the official one, which is ours, and Hugging Face's.

The map is a list of rules (our prefix, their prefix), `{i}` standing for an
index, plus the fused tensors: where we keep one query-key-value matrix, they
keep three, of equal height, in this order.  Both directions come from the same
rules.

The spelling is that of the files on the Hugging Face hub.  transformers >= 5
renames parts of Swin in memory and renames them back when it saves; files
written by hand from such a model are understood too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

# Modules of ours that MODEL.IS_TRAIN False does not build.
TRAINING_ONLY = ("text_encoder.", "text_projector.", "prompt_ctx.")

_PIXEL = "sem_seg_head.pixel_decoder"
_HEAD = "sem_seg_head.predictor"
_HF_PIXEL = "model.pixel_level_module.decoder"
_HF_ENCODER = "model.pixel_level_module.encoder"
_HF_DECODER = "model.transformer_module.decoder"
_HF_TEXT = "model.text_mapper"

_COMMON = [
    # pixel decoder
    (f"{_PIXEL}.input_proj", f"{_HF_PIXEL}.input_projections"),
    (f"{_PIXEL}.transformer.level_embed", f"{_HF_PIXEL}.level_embed"),
    (f"{_PIXEL}.transformer.encoder.layers.{{i}}.self_attn", f"{_HF_PIXEL}.encoder.layers.{{i}}.self_attn"),
    (f"{_PIXEL}.transformer.encoder.layers.{{i}}.norm1", f"{_HF_PIXEL}.encoder.layers.{{i}}.self_attn_layer_norm"),
    (f"{_PIXEL}.transformer.encoder.layers.{{i}}.norm2", f"{_HF_PIXEL}.encoder.layers.{{i}}.final_layer_norm"),
    (f"{_PIXEL}.transformer.encoder.layers.{{i}}.linear1", f"{_HF_PIXEL}.encoder.layers.{{i}}.fc1"),
    (f"{_PIXEL}.transformer.encoder.layers.{{i}}.linear2", f"{_HF_PIXEL}.encoder.layers.{{i}}.fc2"),
    (f"{_PIXEL}.mask_features", f"{_HF_PIXEL}.mask_projection"),
    (f"{_PIXEL}.adapter_{{i}}.norm", f"{_HF_PIXEL}.adapter_{{i}}.1"),
    (f"{_PIXEL}.adapter_{{i}}", f"{_HF_PIXEL}.adapter_{{i}}.0"),
    (f"{_PIXEL}.layer_{{i}}.norm", f"{_HF_PIXEL}.layer_{{i}}.1"),
    (f"{_PIXEL}.layer_{{i}}", f"{_HF_PIXEL}.layer_{{i}}.0"),
    # query initialisation and masked-attention decoder
    (f"{_HEAD}.class_transformer", f"{_HF_DECODER}.query_transformer"),
    (f"{_HEAD}.transformer_cross_attention_layers.{{i}}", f"{_HF_DECODER}.layers.{{i}}.cross_attn"),
    (f"{_HEAD}.transformer_self_attention_layers.{{i}}.self_attn.out_proj",
     f"{_HF_DECODER}.layers.{{i}}.self_attn.self_attn.out_proj"),
    (f"{_HEAD}.transformer_self_attention_layers.{{i}}.norm", f"{_HF_DECODER}.layers.{{i}}.self_attn.norm"),
    (f"{_HEAD}.transformer_ffn_layers.{{i}}", f"{_HF_DECODER}.layers.{{i}}.ffn"),
    (f"{_HEAD}.decoder_norm", f"{_HF_DECODER}.decoder_norm"),
    (f"{_HEAD}.query_embed", "model.transformer_module.queries_embedder"),
    (f"{_HEAD}.level_embed", "model.transformer_module.level_embed"),
    (f"{_HEAD}.class_input_proj", f"{_HF_DECODER}.query_input_projection"),
    (f"{_HEAD}.class_embed", f"{_HF_DECODER}.class_embed"),
    (f"{_HEAD}.mask_embed.layers.{{i}}", f"{_HF_DECODER}.mask_embed.layers.{{i}}.0"),
    ("task_mlp.layers.{i}", "model.task_encoder.task_mlp.layers.{i}.0"),
    # text branch
    ("text_encoder.transformer.resblocks.{i}.attn", f"{_HF_TEXT}.text_encoder.transformer.layers.{{i}}.self_attn"),
    ("text_encoder.transformer.resblocks.{i}.ln_1", f"{_HF_TEXT}.text_encoder.transformer.layers.{{i}}.layer_norm1"),
    ("text_encoder.transformer.resblocks.{i}.ln_2", f"{_HF_TEXT}.text_encoder.transformer.layers.{{i}}.layer_norm2"),
    ("text_encoder.transformer.resblocks.{i}.mlp.c_fc", f"{_HF_TEXT}.text_encoder.transformer.layers.{{i}}.mlp.fc1"),
    ("text_encoder.transformer.resblocks.{i}.mlp.c_proj",
     f"{_HF_TEXT}.text_encoder.transformer.layers.{{i}}.mlp.fc2"),
    ("text_encoder.positional_embedding", f"{_HF_TEXT}.text_encoder.positional_embedding"),
    ("text_encoder.token_embedding", f"{_HF_TEXT}.text_encoder.token_embedding"),
    ("text_encoder.ln_final", f"{_HF_TEXT}.text_encoder.ln_final"),
    ("text_projector.layers.{i}", f"{_HF_TEXT}.text_projector.layers.{{i}}.0"),
    ("prompt_ctx", f"{_HF_TEXT}.prompt_ctx"),
    ("criterion", "criterion"),
]
_COMMON_FUSED = [
    (f"{_HEAD}.transformer_self_attention_layers.{{i}}.self_attn.in_proj_",
     [f"{_HF_DECODER}.layers.{{i}}.self_attn.self_attn.{name}_proj." for name in "qkv"]),
]

_OUTPUT_NORMS = [(f"backbone.norm{i}", f"{_HF_ENCODER}.hidden_states_norms.stage{i + 1}") for i in range(4)]

# Rules per backbone family, by the `model_type` of the Hugging Face backbone.
_BACKBONES = {
    "swin": [
        ("backbone.patch_embed.proj", f"{_HF_ENCODER}.embeddings.patch_embeddings.projection"),
        ("backbone.patch_embed.norm", f"{_HF_ENCODER}.embeddings.norm"),
        ("backbone.layers.{i}.blocks.{j}.norm1", f"{_HF_ENCODER}.encoder.layers.{{i}}.blocks.{{j}}.layernorm_before"),
        ("backbone.layers.{i}.blocks.{j}.norm2", f"{_HF_ENCODER}.encoder.layers.{{i}}.blocks.{{j}}.layernorm_after"),
        ("backbone.layers.{i}.blocks.{j}.attn.relative_position_bias_table",
         f"{_HF_ENCODER}.encoder.layers.{{i}}.blocks.{{j}}.attention.self.relative_position_bias_table"),
        ("backbone.layers.{i}.blocks.{j}.attn.relative_position_index",
         f"{_HF_ENCODER}.encoder.layers.{{i}}.blocks.{{j}}.attention.self.relative_position_index"),
        ("backbone.layers.{i}.blocks.{j}.attn.proj",
         f"{_HF_ENCODER}.encoder.layers.{{i}}.blocks.{{j}}.attention.output.dense"),
        ("backbone.layers.{i}.blocks.{j}.mlp.fc1",
         f"{_HF_ENCODER}.encoder.layers.{{i}}.blocks.{{j}}.intermediate.dense"),
        ("backbone.layers.{i}.blocks.{j}.mlp.fc2", f"{_HF_ENCODER}.encoder.layers.{{i}}.blocks.{{j}}.output.dense"),
        ("backbone.layers.{i}.downsample", f"{_HF_ENCODER}.encoder.layers.{{i}}.downsample"),
        *_OUTPUT_NORMS,
    ],
    "dinat": [
        ("backbone.patch_embed.proj", f"{_HF_ENCODER}.embeddings.patch_embeddings.projection"),
        ("backbone.patch_embed.norm", f"{_HF_ENCODER}.embeddings.norm"),
        ("backbone.levels.{i}.blocks.{j}.norm1", f"{_HF_ENCODER}.encoder.levels.{{i}}.layers.{{j}}.layernorm_before"),
        ("backbone.levels.{i}.blocks.{j}.norm2", f"{_HF_ENCODER}.encoder.levels.{{i}}.layers.{{j}}.layernorm_after"),
        ("backbone.levels.{i}.blocks.{j}.attn.rpb",
         f"{_HF_ENCODER}.encoder.levels.{{i}}.layers.{{j}}.attention.self.rpb"),
        ("backbone.levels.{i}.blocks.{j}.attn.proj",
         f"{_HF_ENCODER}.encoder.levels.{{i}}.layers.{{j}}.attention.output.dense"),
        ("backbone.levels.{i}.blocks.{j}.mlp.fc1",
         f"{_HF_ENCODER}.encoder.levels.{{i}}.layers.{{j}}.intermediate.dense"),
        ("backbone.levels.{i}.blocks.{j}.mlp.fc2", f"{_HF_ENCODER}.encoder.levels.{{i}}.layers.{{j}}.output.dense"),
        ("backbone.levels.{i}.downsample", f"{_HF_ENCODER}.encoder.levels.{{i}}.downsample"),
        *_OUTPUT_NORMS,
    ],
    "convnext": [
        ("backbone.downsample_layers.0.0", f"{_HF_ENCODER}.embeddings.patch_embeddings"),
        ("backbone.downsample_layers.0.1", f"{_HF_ENCODER}.embeddings.layernorm"),
        ("backbone.downsample_layers.{i}", f"{_HF_ENCODER}.encoder.stages.{{i}}.downsampling_layer"),
        ("backbone.stages.{i}.{j}.gamma", f"{_HF_ENCODER}.encoder.stages.{{i}}.layers.{{j}}.layer_scale_parameter"),
        ("backbone.stages.{i}.{j}.norm", f"{_HF_ENCODER}.encoder.stages.{{i}}.layers.{{j}}.layernorm"),
        ("backbone.stages.{i}.{j}.dwconv", f"{_HF_ENCODER}.encoder.stages.{{i}}.layers.{{j}}.dwconv"),
        ("backbone.stages.{i}.{j}.pwconv1", f"{_HF_ENCODER}.encoder.stages.{{i}}.layers.{{j}}.pwconv1"),
        ("backbone.stages.{i}.{j}.pwconv2", f"{_HF_ENCODER}.encoder.stages.{{i}}.layers.{{j}}.pwconv2"),
        *_OUTPUT_NORMS,
    ],
    "resnet": [
        ("backbone.stem.conv1.norm", f"{_HF_ENCODER}.embedder.embedder.normalization"),
        ("backbone.stem.conv1", f"{_HF_ENCODER}.embedder.embedder.convolution"),
        *[rule for i in range(4) for rule in (
            (f"backbone.res{i + 2}.{{j}}.shortcut.norm",
             f"{_HF_ENCODER}.encoder.stages.{i}.layers.{{j}}.shortcut.normalization"),
            (f"backbone.res{i + 2}.{{j}}.shortcut",
             f"{_HF_ENCODER}.encoder.stages.{i}.layers.{{j}}.shortcut.convolution"),
            *[rule for c in range(3) for rule in (
                (f"backbone.res{i + 2}.{{j}}.conv{c + 1}.norm",
                 f"{_HF_ENCODER}.encoder.stages.{i}.layers.{{j}}.layer.{c}.normalization"),
                (f"backbone.res{i + 2}.{{j}}.conv{c + 1}",
                 f"{_HF_ENCODER}.encoder.stages.{i}.layers.{{j}}.layer.{c}.convolution"))])],
    ],
}
_BACKBONES_FUSED = {
    "swin": [("backbone.layers.{i}.blocks.{j}.attn.qkv.",
              [f"{_HF_ENCODER}.encoder.layers.{{i}}.blocks.{{j}}.attention.self.{name}."
               for name in ("query", "key", "value")])],
    "dinat": [("backbone.levels.{i}.blocks.{j}.attn.qkv.",
               [f"{_HF_ENCODER}.encoder.levels.{{i}}.layers.{{j}}.attention.self.{name}."
                for name in ("query", "key", "value")])],
}

# One key of each family tells it, in either spelling.
_OURS_SIGNATURE = {"resnet": "backbone.stem.conv1.weight", "swin": "backbone.layers.0.blocks.0.norm1.weight",
                   "dinat": "backbone.levels.0.blocks.0.norm1.weight",
                   "convnext": "backbone.downsample_layers.0.0.weight"}
_HF_SIGNATURE = {"resnet": f"{_HF_ENCODER}.embedder.embedder.convolution.weight",
                 "swin": f"{_HF_ENCODER}.encoder.layers.0.blocks.0.layernorm_before.weight",
                 "dinat": f"{_HF_ENCODER}.encoder.levels.0.layers.0.layernorm_before.weight",
                 "convnext": f"{_HF_ENCODER}.embeddings.patch_embeddings.weight"}

# transformers >= 5 in memory -> on disk.
_SWIN_IN_MEMORY = [
    (re.compile(re.escape(f"{_HF_ENCODER}.swin.")), f"{_HF_ENCODER}."),
    (re.compile(r"\.attention\.q_proj\."), ".attention.self.query."),
    (re.compile(r"\.attention\.k_proj\."), ".attention.self.key."),
    (re.compile(r"\.attention\.v_proj\."), ".attention.self.value."),
    (re.compile(r"\.attention\.o_proj\."), ".attention.output.dense."),
    (re.compile(r"\.attention\.relative_position_bias\."), ".attention.self."),
    (re.compile(r"(\.blocks\.\d+)\.mlp\.fc1\."), r"\1.intermediate.dense."),
    (re.compile(r"(\.blocks\.\d+)\.mlp\.fc2\."), r"\1.output.dense."),
]
# A norm that SwinBackbone builds and never uses.
_SWIN_UNUSED = f"{_HF_ENCODER}.swin.layernorm"


def is_huggingface(state: Iterable[str]) -> bool:
    """Whether the keys are those of transformers' OneFormerForUniversalSegmentation."""
    return any(key.startswith(f"{_HF_ENCODER}.") for key in state)


def from_huggingface(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Hugging Face's keys to ours; inverse of `to_huggingface`.

    Raises:
        ValueError: for a backbone other than Swin, DiNAT, ConvNeXt or ResNet, a
            key that no rule knows, or an incomplete query-key-value triple.
    """
    state = {_on_disk(key): value for key, value in state.items()
             if not key.startswith((_SWIN_UNUSED, f"{_HF_ENCODER}.layernorm."))}
    family = _family(state, _HF_SIGNATURE)
    fused = [(_compile(theirs), ours, position) for ours, triple in _fused(family)
             for position, theirs in enumerate(triple)]
    plain = [(_compile(theirs), ours) for ours, theirs in _plain(family)]
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
            raise ValueError(f"the Hugging Face checkpoint has {len(triple)} of the 3 tensors (query, key, value) "
                             f"that make {key}; it is incomplete")
        result[key] = torch.cat([triple[position] for position in range(3)])
    return result


def to_huggingface(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our keys to Hugging Face's, complete: nothing is missing when `transformers` loads them.

    What they have and we do not is added: Swin's unused final norm (an identity)
    and the step counters of batch norms.  Our index buffers are left out.

    Raises:
        ValueError: as `from_huggingface`.
    """
    family = _family(state, _OURS_SIGNATURE)
    fused = [(_compile(ours), triple) for ours, triple in _fused(family)]
    plain = [(_compile(ours), theirs) for ours, theirs in _plain(family)]
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
    return _family(state, _OURS_SIGNATURE)


def _family(state: Iterable[str], signatures: Mapping[str, str]) -> str:
    keys = set(state)
    for family, signature in signatures.items():
        if signature in keys:
            return family
    raise ValueError("no Hugging Face key map for this backbone; known are "
                     f"{', '.join(signatures)} (recognised by {', '.join(signatures.values())})")


def _plain(family: str) -> list[tuple[str, str]]:
    return _COMMON + _BACKBONES[family]


def _fused(family: str) -> list[tuple[str, list[str]]]:
    return _COMMON_FUSED + _BACKBONES_FUSED.get(family, [])


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
    raise ValueError(f"no rule of the Hugging Face key map knows the tensor {key!r}; "
                     "the model is not the OneFormer that transformers implements")


def _on_disk(key: str) -> str:
    if not key.startswith(f"{_HF_ENCODER}."):
        return key
    for pattern, replacement in _SWIN_IN_MEMORY:
        key = pattern.sub(replacement, key)
    return key


def _add_foreign(result: dict[str, torch.Tensor], family: str) -> None:
    if family == "swin":
        width = result[f"{_HF_ENCODER}.hidden_states_norms.stage4.weight"].shape
        result[f"{_SWIN_UNUSED}.weight"] = torch.ones(width)
        result[f"{_SWIN_UNUSED}.bias"] = torch.zeros(width)
    if family == "resnet":
        for key in [key for key in result if key.endswith(".running_var")]:
            result.setdefault(key.replace(".running_var", ".num_batches_tracked"), torch.zeros((), dtype=torch.int64))
