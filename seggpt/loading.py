"""From weights (and perhaps a config) to a SegGPT that is ready to infer."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from safetensors import SafetensorError, safe_open

from segcore.checkpoint import Checkpointer, bundled_weights, load_portable_header
from segcore.checkpoint.reading import CONFIG_FILE
from seggpt.config import add_seggpt_config, check_is_seggpt, configured_weights, read_config
from seggpt.convert import model_config
from seggpt.modeling import SegGPT

# Painter's checkpoint lacks them; they then keep their initial values.
PAINTER_LACKS = {"type_token_cls", "type_token_ins"}


def load_weights(model: SegGPT, path: str | os.PathLike, *, painter: bool = False) -> None:
    """Load strictly, from any format that the checkpointer reads.

    Args:
        painter: accept a file without the two type tokens (Painter's); only to start training from.

    Raises:
        FileNotFoundError, OSError: if it is not there.
        ValueError: if it is damaged or does not hold exactly this model's tensors.
    """
    checkpointer = Checkpointer(model)
    checkpointer.load(os.fspath(path))
    report = checkpointer.last_report
    missing = set(report.missing) - (PAINTER_LACKS if painter else set())
    if set(report.missing) == PAINTER_LACKS and missing:
        raise ValueError(
            f"{path} is a Painter checkpoint: it has no {' and no '.join(sorted(missing))}, which only "
            "training provides; use SegGPT's weights, or start training from it"
        )
    if missing or report.unexpected:
        raise ValueError(
            f"{path} does not fit this SegGPT: missing {sorted(missing) or 'nothing'}, "
            f"left over {sorted(report.unexpected) or 'nothing'}"
        )


def build_loaded(
    cfg: CfgNode | str | os.PathLike | None = None,
    weights: str | os.PathLike | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> SegGPT:
    """Build a SegGPT and load its weights.

    Args:
        cfg: Detectron2 config or the path of its YAML. None takes the one inside of a portable file or
            of a Hugging Face folder, and for other files the released ViT-L's.
        weights: portable `.safetensors`, a released `.pth`, a Hugging Face folder or `hf:ORG/NAME` (this one
            with the released ViT-L's config unless `cfg` says otherwise); None takes `cfg.MODEL.WEIGHTS`, and
            without `cfg` the bundled weights.
        device: by default the GPU where there is one.
        dtype: of the weights and of what is computed with them: float32 (default), bfloat16 or float16.

    Raises:
        FileNotFoundError, OSError: if a file is not there.
        ValueError: if there are no weights, or weights and config do not belong together.
    """
    if isinstance(cfg, (str, os.PathLike)):
        cfg = read_config(cfg)
    if weights is None:
        weights = configured_weights(cfg) if cfg is not None else bundled_weights("seggpt")
    if not os.fspath(weights):
        raise ValueError("no weights in the config: set MODEL.WEIGHTS, or give a file or folder")
    arguments = SegGPT.from_config(cfg) if cfg is not None else _own_arguments(os.fspath(weights))
    model = SegGPT(**arguments)
    load_weights(model, weights)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device, dtype).eval().requires_grad_(False)


def _own_arguments(weights: str) -> dict:
    """The architecture that weights say they have; the released ViT-L's if they say nothing."""
    cfg = get_cfg()
    add_seggpt_config(cfg)
    folder_config = Path(weights) / CONFIG_FILE
    if folder_config.is_file():
        return model_config(json.loads(folder_config.read_text()))
    if weights.endswith(".safetensors") and os.path.isfile(weights) and _has_config(weights):
        text, _ = load_portable_header(weights)
        loaded = CfgNode.load_cfg(text)
        check_is_seggpt(loaded, weights)
        return SegGPT.from_config(loaded)
    return SegGPT.from_config(cfg)


def _has_config(path: str) -> bool:
    try:
        with safe_open(path, "pt") as file:
            return "segcore" in (file.metadata() or {})
    except SafetensorError:
        return False  # the checkpointer will say what is wrong with it
