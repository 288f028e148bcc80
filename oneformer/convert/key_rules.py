"""The rules that tie OneFormer's tensor names, which are ours, to Hugging Face's.

A plain rule is (our prefix, their prefix); `{i}` and `{j}` stand for indices, and
what follows the prefix is kept.  The first rule that fits a name wins.  A fused
rule is (our prefix, their three prefixes): where we keep one query-key-value
tensor, they keep three of equal height, in this order.
"""

from __future__ import annotations

PlainRule = tuple[str, str]
FusedRule = tuple[str, tuple[str, str, str]]

ENCODER = "model.pixel_level_module.encoder"
_PIXEL_DECODER = "model.pixel_level_module.decoder"
_DECODER = "model.transformer_module.decoder"
_OUR_ENCODER_LAYER = "sem_seg_head.pixel_decoder.transformer.encoder.layers.{i}"
_TEXT = "model.text_mapper.text_encoder"


def _under(ours: str, theirs: str, names: dict[str, str]) -> list[PlainRule]:
    """Rules for the parts `names` (ours -> theirs) of one module."""
    return [(f"{ours}.{our_name}", f"{theirs}.{their_name}") for our_name, their_name in names.items()]


_PIXEL_DECODER_RULES = [
    *_under("sem_seg_head.pixel_decoder", _PIXEL_DECODER, {
        "input_proj": "input_projections",
        "transformer.level_embed": "level_embed",
        "mask_features": "mask_projection",
        "adapter_{i}.norm": "adapter_{i}.1",
        "adapter_{i}": "adapter_{i}.0",
        "layer_{i}.norm": "layer_{i}.1",
        "layer_{i}": "layer_{i}.0",
    }),
    *_under(_OUR_ENCODER_LAYER, f"{_PIXEL_DECODER}.encoder.layers.{{i}}", {
        "self_attn": "self_attn",
        "norm1": "self_attn_layer_norm",
        "norm2": "final_layer_norm",
        "linear1": "fc1",
        "linear2": "fc2",
    }),
]

_DECODER_RULES = [
    *_under("sem_seg_head.predictor", _DECODER, {
        "class_transformer": "query_transformer",
        "class_input_proj": "query_input_projection",
        "transformer_cross_attention_layers.{i}": "layers.{i}.cross_attn",
        "transformer_self_attention_layers.{i}.self_attn.out_proj": "layers.{i}.self_attn.self_attn.out_proj",
        "transformer_self_attention_layers.{i}.norm": "layers.{i}.self_attn.norm",
        "transformer_ffn_layers.{i}": "layers.{i}.ffn",
        "decoder_norm": "decoder_norm",
        "class_embed": "class_embed",
        "mask_embed.layers.{i}": "mask_embed.layers.{i}.0",
    }),
    *_under("sem_seg_head.predictor", "model.transformer_module", {
        "query_embed": "queries_embedder",
        "level_embed": "level_embed",
    }),
    ("task_mlp.layers.{i}", "model.task_encoder.task_mlp.layers.{i}.0"),
    ("criterion", "criterion"),
]

_TEXT_RULES = [
    *_under("text_encoder.transformer.resblocks.{i}", f"{_TEXT}.transformer.layers.{{i}}", {
        "attn": "self_attn",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }),
    *_under("text_encoder", _TEXT, {
        "positional_embedding": "positional_embedding",
        "token_embedding": "token_embedding",
        "ln_final": "ln_final",
    }),
    ("text_projector.layers.{i}", "model.text_mapper.text_projector.layers.{i}.0"),
    ("prompt_ctx", "model.text_mapper.prompt_ctx"),
]

_OUTPUT_NORMS = [(f"backbone.norm{i}", f"{ENCODER}.hidden_states_norms.stage{i + 1}") for i in range(4)]

# Swin and DiNAT name the parts of a block alike.
_ATTENTION_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_PATCH_EMBEDDING = {
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "patch_embed.norm": "embeddings.norm",
}

_SWIN_RULES = [
    *_under("backbone", ENCODER, _PATCH_EMBEDDING),
    ("backbone.layers.{i}.downsample", f"{ENCODER}.encoder.layers.{{i}}.downsample"),
    *_under("backbone.layers.{i}.blocks.{j}", f"{ENCODER}.encoder.layers.{{i}}.blocks.{{j}}", {
        **_ATTENTION_BLOCK,
        "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
        "attn.relative_position_index": "attention.self.relative_position_index",
    }),
    *_OUTPUT_NORMS,
]

_DINAT_RULES = [
    *_under("backbone", ENCODER, _PATCH_EMBEDDING),
    ("backbone.levels.{i}.downsample", f"{ENCODER}.encoder.levels.{{i}}.downsample"),
    *_under("backbone.levels.{i}.blocks.{j}", f"{ENCODER}.encoder.levels.{{i}}.layers.{{j}}", {
        **_ATTENTION_BLOCK,
        "attn.rpb": "attention.self.rpb",
    }),
    *_OUTPUT_NORMS,
]

_CONVNEXT_RULES = [
    *_under("backbone.downsample_layers", ENCODER, {
        "0.0": "embeddings.patch_embeddings",
        "0.1": "embeddings.layernorm",
        "{i}": "encoder.stages.{i}.downsampling_layer",
    }),
    *_under("backbone.stages.{i}.{j}", f"{ENCODER}.encoder.stages.{{i}}.layers.{{j}}", {
        "gamma": "layer_scale_parameter",
        "norm": "layernorm",
        "dwconv": "dwconv",
        "pwconv1": "pwconv1",
        "pwconv2": "pwconv2",
    }),
    *_OUTPUT_NORMS,
]

_CONVOLUTION = {"norm": "normalization", "weight": "convolution.weight"}
_RESNET_PARTS = {"shortcut": "shortcut", "conv1": "layer.0", "conv2": "layer.1", "conv3": "layer.2"}
_RESNET_RULES = _under("backbone.stem.conv1", f"{ENCODER}.embedder.embedder", _CONVOLUTION)
for _stage in range(4):
    for _ours, _theirs in _RESNET_PARTS.items():
        _RESNET_RULES += _under(
            f"backbone.res{_stage + 2}.{{j}}.{_ours}",
            f"{ENCODER}.encoder.stages.{_stage}.layers.{{j}}.{_theirs}",
            _CONVOLUTION,
        )


def _split(theirs: str) -> tuple[str, str, str]:
    return tuple(f"{theirs}.{name}." for name in ("query", "key", "value"))


_DECODER_FUSED = [(
    "sem_seg_head.predictor.transformer_self_attention_layers.{i}.self_attn.in_proj_",
    tuple(f"{_DECODER}.layers.{{i}}.self_attn.self_attn.{name}_proj." for name in "qkv"),
)]
_BACKBONE_FUSED = {
    "swin": [("backbone.layers.{i}.blocks.{j}.attn.qkv.",
              _split(f"{ENCODER}.encoder.layers.{{i}}.blocks.{{j}}.attention.self"))],
    "dinat": [("backbone.levels.{i}.blocks.{j}.attn.qkv.",
               _split(f"{ENCODER}.encoder.levels.{{i}}.layers.{{j}}.attention.self"))],
}
_BACKBONE_RULES = {
    "swin": _SWIN_RULES,
    "dinat": _DINAT_RULES,
    "convnext": _CONVNEXT_RULES,
    "resnet": _RESNET_RULES,
}

# One name tells the backbone's family (Hugging Face's `model_type`), in either spelling.
OUR_SIGNATURES = {
    "resnet": "backbone.stem.conv1.weight",
    "swin": "backbone.layers.0.blocks.0.norm1.weight",
    "dinat": "backbone.levels.0.blocks.0.norm1.weight",
    "convnext": "backbone.downsample_layers.0.0.weight",
}
THEIR_SIGNATURES = {
    "resnet": f"{ENCODER}.embedder.embedder.convolution.weight",
    "swin": f"{ENCODER}.encoder.layers.0.blocks.0.layernorm_before.weight",
    "dinat": f"{ENCODER}.encoder.levels.0.layers.0.layernorm_before.weight",
    "convnext": f"{ENCODER}.embeddings.patch_embeddings.weight",
}


def plain_rules(family: str) -> list[PlainRule]:
    """The plain rules of a OneFormer with this backbone family, in order."""
    return [*_PIXEL_DECODER_RULES, *_DECODER_RULES, *_TEXT_RULES, *_BACKBONE_RULES[family]]


def fused_rules(family: str) -> list[FusedRule]:
    """The fused rules; they go before the plain ones."""
    return [*_DECODER_FUSED, *_BACKBONE_FUSED.get(family, [])]
