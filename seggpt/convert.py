"""Weights of other origin: Hugging Face's spelling of SegGPT, both ways, and MAE's encoder.

Ours is the released file's (`seggpt_vit_large.pth`), which Painter's shares except for the two type
tokens. No tensor is transposed or split: only names differ.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from segcore.checkpoint import register_converter
from segcore.checkpoint.files import atomic_path

# ours <-> theirs, as prefix pairs; {i} is a block's index
_MODULES = {
    "mask_token": "model.embeddings.mask_token",
    "segment_token_x": "model.embeddings.segment_token_input",
    "segment_token_y": "model.embeddings.segment_token_prompt",
    "type_token_cls": "model.embeddings.type_token_semantic",
    "type_token_ins": "model.embeddings.type_token_instance",
    "pos_embed": "model.embeddings.position_embeddings",
    "patch_embed.proj": "model.embeddings.patch_embeddings.projection",
    "blocks.{i}.norm1": "model.encoder.layers.{i}.layernorm_before",
    "blocks.{i}.norm2": "model.encoder.layers.{i}.layernorm_after",
    "blocks.{i}.attn": "model.encoder.layers.{i}.attention",
    "blocks.{i}.mlp.fc1": "model.encoder.layers.{i}.mlp.lin1",
    "blocks.{i}.mlp.fc2": "model.encoder.layers.{i}.mlp.lin2",
    "norm": "model.encoder.layernorm",
    "decoder_embed": "decoder.decoder_embed",
    "decoder_pred.0": "decoder.decoder_pred.conv",
    "decoder_pred.1": "decoder.decoder_pred.layernorm",
    "decoder_pred.3": "decoder.decoder_pred.head",
}


def _rules(pairs) -> list[tuple[re.Pattern, str]]:
    rules = []
    for source, target in pairs:
        pattern = re.escape(source).replace(r"\{i\}", r"(?P<i>\d+)") + r"(?P<rest>(\..+)?)"
        rules.append((re.compile(pattern), target.replace("{i}", r"\g<i>") + r"\g<rest>"))
    return rules


_TO_HF = _rules(_MODULES.items())
_FROM_HF = _rules((theirs, ours) for ours, theirs in _MODULES.items())


def _rename(state: Mapping[str, Tensor], rules, spelling: str) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        match, target = next(((m, t) for p, t in rules if (m := p.fullmatch(key))), (None, None))
        if match is None:
            raise ValueError(f"{key!r} is not a SegGPT weight in {spelling} spelling")
        renamed[match.expand(target)] = value
    return renamed


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under the names of `transformers.SegGptForImageSegmentation`.

    Raises:
        ValueError: if a key is not one of SegGPT's.
    """
    return _rename(state, _TO_HF, "the released")


def from_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_huggingface`."""
    return _rename(state, _FROM_HF, "Hugging Face's")


def is_huggingface(keys) -> bool:
    """Whether these are the names of `transformers.SegGptForImageSegmentation`."""
    return _MODULES["segment_token_x"] in keys


def is_mae(state: Mapping[str, Tensor]) -> bool:
    """Whether this is a plain ViT with a class token, as MAE's files are (with its decoder or without)."""
    return "cls_token" in state and "blocks.0.attn.qkv.weight" in state and "segment_token_x" not in state


def from_mae(state: Mapping[str, Tensor], model_keys: Collection[str]) -> dict[str, Tensor]:
    """The encoder of an MAE checkpoint: patches, positions, blocks, last norm (arXiv:2111.06377).

    Its class token and decoder are left out; its mask token belongs to that decoder.
    """
    parts = ("patch_embed.", "pos_embed", "blocks.", "norm.")
    return {key: value for key, value in state.items() if key.startswith(parts) and key in model_keys}


def register() -> None:
    """Teach the checkpointer Hugging Face's names and MAE's files; harmless when called twice.

    The released files, SegGPT's and Painter's, have our names and need no conversion.
    """
    register_converter(
        "Hugging Face SegGPT",
        is_huggingface,
        lambda state, model: from_huggingface(state),
        for_model=lambda keys: "segment_token_x" in keys,
    )
    register_converter(
        "MAE encoder",
        is_mae,
        lambda state, model: from_mae(state, model.state_dict().keys()),
        optional=[r"blocks\.\d+\.attn\.rel_pos_[hw]"],  # MAE has none: they start at zero
        for_model=lambda keys: "segment_token_x" in keys,
        shares_names=True,
    )


def huggingface_config(model_config: Mapping) -> dict:
    """`config.json` for the arguments of `seggpt.modeling.SegGPT` (all of them given)."""
    return {
        "model_type": "seggpt",
        "architectures": ["SegGptForImageSegmentation"],
        "image_size": list(model_config["img_size"]),
        "pretrain_image_size": model_config["pretrain_img_size"],
        "patch_size": model_config["patch_size"],
        "num_channels": 3,
        "hidden_size": model_config["embed_dim"],
        "num_hidden_layers": model_config["depth"],
        "num_attention_heads": model_config["num_heads"],
        "mlp_dim": int(model_config["embed_dim"] * model_config["mlp_ratio"]),
        "decoder_hidden_size": model_config["decoder_dim"],
        "merge_index": model_config["merge_block"],
        "intermediate_hidden_state_indices": list(model_config["out_blocks"]),
        "drop_path_rate": model_config["drop_path_rate"],
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_relative_position_embeddings": True,
    }


def model_config(config: Mapping) -> dict:
    """Arguments of `seggpt.modeling.SegGPT` from a Hugging Face `config.json`.

    Raises:
        ValueError: for another model's config, or a variant that this network is not.
    """
    if config.get("model_type") != "seggpt":
        raise ValueError(f"config.json is of model_type {config.get('model_type')!r}, not 'seggpt'")
    fixed = {
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "num_channels": 3,
        "use_relative_position_embeddings": True,
    }
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise ValueError(f"config.json has {key} = {config[key]!r}; this network has {value!r}")
    hidden = config.get("hidden_size", 1024)
    return {
        "img_size": tuple(config.get("image_size", (896, 448))),
        "pretrain_img_size": config.get("pretrain_image_size", 224),
        "patch_size": config.get("patch_size", 16),
        "embed_dim": hidden,
        "depth": config.get("num_hidden_layers", 24),
        "num_heads": config.get("num_attention_heads", 16),
        "mlp_ratio": (config.get("mlp_dim") or 4 * hidden) / hidden,
        "decoder_dim": config.get("decoder_hidden_size", 64),
        "merge_block": config.get("merge_index", 2),
        "out_blocks": tuple(config.get("intermediate_hidden_state_indices", (5, 11, 17, 23))),
        "drop_path_rate": config.get("drop_path_rate", 0.1),
    }


def export_huggingface(state: Mapping[str, Tensor], arguments: Mapping, folder: str | os.PathLike) -> None:
    """Write a folder that `transformers.SegGptForImageSegmentation.from_pretrained` loads.

    Args:
        state: a SegGPT's state dict. arguments: those that built it, all of them (`SegGPT.from_config(cfg)`).
        folder: made if absent; must not hold a model yet.

    Raises:
        FileExistsError: if it does.
        ValueError: if a key is not one of SegGPT's.
    """
    target = Path(folder) / "model.safetensors"
    if target.exists():
        raise FileExistsError(f"{target} exists; export to an empty folder")
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in to_huggingface(state).items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    (target.parent / "config.json").write_text(json.dumps(huggingface_config(arguments), indent=1) + "\n")
    with atomic_path(target) as temporary:   # last: a folder with weights is complete
        save_file(tensors, temporary, metadata={"format": "pt"})
