"""Our model as a Hugging Face folder that `transformers` loads."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from safetensors.torch import save_file
from torch import nn

from segcore.checkpoint.files import atomic_path

from .key_map import TRAINING_ONLY, backbone_family, to_huggingface

_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_RESNET_DEPTHS = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3], 152: [3, 8, 36, 3]}


class HuggingFaceExporter:
    """Writes `config.json`, `model.safetensors`, `preprocessor_config.json` and the class list."""

    @configurable
    def __init__(
        self,
        *,
        class_names: Sequence[str],
        thing_classes: Sequence[int],
        settings: dict[str, Any],
        backbone: dict[str, Any],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        min_size: int,
        max_size: int,
        ignore_label: int = 255,
    ) -> None:
        """
        Args:
            class_names: one per class index.
            thing_classes: the class indices that are things.
            settings: the model's fields of transformers' `OneFormerConfig`.
            backbone: its `backbone_config`, with `model_type`.
            pixel_mean, pixel_std: RGB, in 0..255.
            min_size, max_size: shorter and longest side of a test image.
            ignore_label: of the data set.
        """
        self.class_names = list(class_names)
        self.thing_classes = set(thing_classes)
        self.settings = settings
        self.backbone = backbone
        self.pixel_mean = [float(value) for value in pixel_mean]
        self.pixel_std = [float(value) for value in pixel_std]
        self.min_size, self.max_size = min_size, max_size
        self.ignore_label = ignore_label

    @classmethod
    def from_config(
        cls, cfg, class_names: Sequence[str] | None = None, thing_classes: Sequence[int] | None = None
    ):
        """Classes default to those of the first test (or training) set of `cfg`."""
        if class_names is None:
            class_names, thing_classes = _classes((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN))
        return {
            "class_names": class_names,
            "thing_classes": thing_classes or (),
            "settings": _settings(cfg.MODEL, cfg.INPUT.TASK_SEQ_LEN),
            "backbone": _backbone_settings(cfg.MODEL),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "ignore_label": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
        }

    def save(self, model: nn.Module, folder: str | os.PathLike, *, with_text: bool = False) -> None:
        """Write the folder; the weights go last, so a folder with weights is complete.

        Args:
            model: a OneFormer.
            folder: made if absent; must not hold a model yet.
            with_text: export the text branch too, for training.  transformers then
                applies dropout even in eval mode (it asks `config.is_training`, not
                the module), so leave it out for inference.

        Raises:
            ValueError: if the model is not the one that the configuration
                describes, has no text branch to export, or transformers has no such model.
            FileExistsError: if the folder already has a model.
        """
        folder = os.fspath(folder)
        target = os.path.join(folder, "model.safetensors")
        if os.path.exists(target):
            raise FileExistsError(
                f"{target} exists; export to an empty folder, or remove the old export first"
            )
        state = {
            key: value.detach().cpu()
            for key, value in model.state_dict().items()
            if with_text or not key.startswith(TRAINING_ONLY)
        }
        config = self.config(state)
        if with_text and not config["is_training"]:
            raise ValueError("the model was built without its text branch; build it with MODEL.IS_TRAIN True")
        tensors = {
            key: value.clone(memory_format=torch.contiguous_format)
            for key, value in to_huggingface(state).items()
        }
        os.makedirs(folder, exist_ok=True)
        _write_json(os.path.join(folder, "config.json"), config)
        _write_json(os.path.join(folder, "class_info.json"), self.class_info())
        _write_json(os.path.join(folder, "preprocessor_config.json"), self.preprocessor())
        with atomic_path(target) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})

    def config(self, state: dict[str, torch.Tensor]) -> dict[str, Any]:
        """transformers' `config.json` for a model with this state dict."""
        num_classes = state["sem_seg_head.predictor.class_embed.weight"].shape[0] - 1
        if num_classes != len(self.class_names):
            raise ValueError(
                f"the model has {num_classes} classes, but {len(self.class_names)} class names were "
                "given; pass the names of the data set that it was trained on"
            )
        family = backbone_family(state)
        if family != self.backbone["model_type"]:
            raise ValueError(f"the model's backbone is {family}, the config's {self.backbone['model_type']}")
        labels = {str(index): name for index, name in enumerate(self.class_names)}
        return {
            "architectures": ["OneFormerForUniversalSegmentation"],
            "model_type": "oneformer",
            "dtype": "float32",
            **self.settings,
            "is_training": any(key.startswith("text_encoder.") for key in state),
            "backbone_config": {**self.backbone, "out_features": _STAGES},
            "id2label": labels,
            "label2id": {name: int(index) for index, name in labels.items()},
        }

    def class_info(self) -> dict[str, dict]:
        """The class list in the form that transformers' image processor reads."""
        return {
            str(index): {"name": name, "isthing": int(index in self.thing_classes)}
            for index, name in enumerate(self.class_names)
        }

    def preprocessor(self) -> dict[str, Any]:
        """`preprocessor_config.json`; load it with `repo_path` set to the folder to find the class list."""
        return {
            "image_processor_type": "OneFormerImageProcessor",
            "do_resize": True,
            "do_rescale": True,
            "do_normalize": True,
            "size": {"shortest_edge": self.min_size, "longest_edge": self.max_size},
            "rescale_factor": 1 / 255,
            "image_mean": [value / 255 for value in self.pixel_mean],
            "image_std": [value / 255 for value in self.pixel_std],
            "ignore_index": self.ignore_label,
            "num_labels": len(self.class_names),
            "num_text": self.settings["num_queries"] - self.settings["text_encoder_n_ctx"],
            "class_info_file": "class_info.json",
        }


def _classes(dataset_names: Sequence[str]) -> tuple[list[str], list[int]]:
    for name in dataset_names:
        metadata = MetadataCatalog.get(name)
        classes = metadata.get("stuff_classes")
        if classes:
            return list(classes), sorted(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
    raise ValueError(
        f"no class names are registered for the data sets {list(dataset_names)}; register one of them "
        "or pass class_names"
    )


def _settings(node, task_seq_len: int) -> dict[str, Any]:
    """The fields of `OneFormerConfig` from the config's MODEL node."""
    model, head, text = node.ONE_FORMER, node.SEM_SEG_HEAD, node.TEXT_ENCODER
    _require("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_POINTS", head.TRANSFORMER_ENC_POINTS, 4)
    _require("MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_NHEADS", head.TRANSFORMER_ENC_NHEADS, model.NHEADS)
    _require("MODEL.SEM_SEG_HEAD.COMMON_STRIDE", head.COMMON_STRIDE, 4)
    return {
        "hidden_dim": model.HIDDEN_DIM,
        "num_attention_heads": model.NHEADS,
        "dim_feedforward": model.DIM_FEEDFORWARD,
        "dropout": model.DROPOUT,
        "num_queries": model.NUM_OBJECT_QUERIES,
        "query_dec_layers": model.CLASS_DEC_LAYERS,
        "decoder_layers": model.DEC_LAYERS,
        "use_task_norm": model.USE_TASK_NORM,
        "conv_dim": head.CONVS_DIM,
        "mask_dim": head.MASK_DIM,
        "norm": head.NORM,
        "encoder_layers": head.TRANSFORMER_ENC_LAYERS,
        "encoder_feedforward_dim": head.TRANSFORMER_ENC_DIM_FEEDFORWARD,
        "common_stride": head.COMMON_STRIDE,
        "strides": [4, 8, 16, 32],
        "ignore_value": head.IGNORE_VALUE,
        "pre_norm": False,
        "enforce_input_proj": False,
        "task_seq_len": task_seq_len,
        "text_encoder_width": text.WIDTH,
        "text_encoder_context_length": text.CONTEXT_LENGTH,
        "text_encoder_num_layers": text.NUM_LAYERS,
        "text_encoder_vocab_size": text.VOCAB_SIZE,
        "text_encoder_proj_layers": text.PROJ_NUM_LAYERS,
        "text_encoder_n_ctx": text.N_CTX,
        "use_auxiliary_loss": model.DEEP_SUPERVISION,
        "no_object_weight": model.NO_OBJECT_WEIGHT,
        "class_weight": model.CLASS_WEIGHT,
        "mask_weight": model.MASK_WEIGHT,
        "dice_weight": model.DICE_WEIGHT,
        "contrastive_weight": model.CONTRASTIVE_WEIGHT,
        "contrastive_temperature": model.CONTRASTIVE_TEMPERATURE,
        "train_num_points": model.TRAIN_NUM_POINTS,
        "oversample_ratio": model.OVERSAMPLE_RATIO,
        "importance_sample_ratio": model.IMPORTANCE_SAMPLE_RATIO,
    }


def _backbone_settings(node) -> dict[str, Any]:
    """The `backbone_config` from the config's MODEL node."""
    name = node.BACKBONE.NAME
    builders = {
        "D2SwinTransformer": _swin,
        "D2DiNAT": _dinat,
        "D2ConvNeXt": _convnext,
        "build_resnet_backbone": _resnet,
    }
    if name not in builders:
        raise ValueError(
            f"the backbone {name!r} has no Hugging Face counterpart here; known are {', '.join(builders)}"
        )
    return builders[name](node)


def _swin(node) -> dict[str, Any]:
    swin = node.SWIN
    _require("MODEL.SWIN.PATCH_NORM", swin.PATCH_NORM, True)
    _require("MODEL.SWIN.APE", swin.APE, False)
    return {
        "model_type": "swin",
        "embed_dim": swin.EMBED_DIM,
        "depths": list(swin.DEPTHS),
        "num_heads": list(swin.NUM_HEADS),
        "window_size": swin.WINDOW_SIZE,
        "patch_size": swin.PATCH_SIZE,
        "image_size": swin.PRETRAIN_IMG_SIZE,
        "mlp_ratio": swin.MLP_RATIO,
        "qkv_bias": swin.QKV_BIAS,
        "drop_path_rate": swin.DROP_PATH_RATE,
        "layer_norm_eps": 1e-5,
    }


def _dinat(node) -> dict[str, Any]:
    dinat = node.DiNAT
    return {
        "model_type": "dinat",
        "embed_dim": dinat.EMBED_DIM,
        "depths": list(dinat.DEPTHS),
        "num_heads": list(dinat.NUM_HEADS),
        "kernel_size": dinat.KERNEL_SIZE,
        "dilations": [list(level) for level in dinat.DILATIONS],
        "mlp_ratio": dinat.MLP_RATIO,
        "drop_path_rate": dinat.DROP_PATH_RATE,
        "layer_scale_init_value": 0.0,
        "layer_norm_eps": 1e-5,
    }


def _convnext(node) -> dict[str, Any]:
    convnext = node.CONVNEXT
    return {
        "model_type": "convnext",
        "num_stages": 4,
        "hidden_sizes": list(convnext.DIMS),
        "depths": list(convnext.DEPTHS),
        "drop_path_rate": convnext.DROP_PATH_RATE,
        "layer_scale_init_value": convnext.LSIT,
    }


def _resnet(node) -> dict[str, Any]:
    resnet = node.RESNETS
    if resnet.DEPTH not in _RESNET_DEPTHS:
        raise ValueError(
            f"MODEL.RESNETS.DEPTH {resnet.DEPTH} cannot be exported; known are {list(_RESNET_DEPTHS)}"
        )
    _require("MODEL.RESNETS.NUM_GROUPS", resnet.NUM_GROUPS, 1)
    _require("MODEL.RESNETS.WIDTH_PER_GROUP", resnet.WIDTH_PER_GROUP, resnet.RES2_OUT_CHANNELS // 4)
    _require("MODEL.RESNETS.RES5_DILATION", resnet.RES5_DILATION, 1)
    width = resnet.RES2_OUT_CHANNELS
    return {
        "model_type": "resnet",
        "embedding_size": resnet.STEM_OUT_CHANNELS,
        "layer_type": "bottleneck",
        "hidden_sizes": [width * 2**level for level in range(4)],
        "depths": _RESNET_DEPTHS[resnet.DEPTH],
        "downsample_in_bottleneck": resnet.STRIDE_IN_1X1,
    }


def _require(key: str, got: Any, expected: Any) -> None:
    if got != expected:
        raise ValueError(
            f"transformers' OneFormer has {key} {expected}, the model {got}: it cannot be exported"
        )


def _write_json(path: str, value: Any) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False)
        stream.write("\n")
