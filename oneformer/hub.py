"""Publishing a OneFormer on the Hugging Face hub, for this package and for transformers."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from detectron2.modeling import build_model

from segcore.checkpoint import Checkpointer, load_portable_header
from segcore.checkpoint.hub import PORTABLE_FILE, push

from . import modeling  # noqa: F401  (its import registers the model and its checkpoint formats)
from .convert import HuggingFaceExporter
from .loading import build_portable_config

_CARD = """---
library_name: transformers
pipeline_tag: image-segmentation
tags: [oneformer, panoptic-segmentation, detectron2]
---

# {name}

OneFormer ([arXiv:2211.06220](https://arxiv.org/abs/2211.06220)): panoptic, instance and semantic segmentation by one
model. It tells {count} classes apart: {classes}.

Terms of the data that it was trained on: {terms}

```python
from oneformer import OneFormerPredictor
from segcore.data.photo import read_photo

found = OneFormerPredictor(weights="hf:{name}")(read_photo("photo.jpg"), task="all")
```
{transformers}"""
_TRANSFORMERS = """
`transformers` loads it too:

```python
from transformers import OneFormerForUniversalSegmentation

model = OneFormerForUniversalSegmentation.from_pretrained("{name}")
```
"""


def push_to_hub(
    weights: str | os.PathLike,
    name: str,
    *,
    private: bool = True,
    token: str | None = None,
    transformers: bool = True,
) -> str:
    """Publish portable weights as ORG/NAME; `OneFormerPredictor(weights="hf:ORG/NAME")` loads them.

    Args:
        weights: a portable `.safetensors` (`tools/export_portable.py` makes one of any checkpoint).
        name: ORG/NAME.
        private: of a repository that is made.
        token: None takes the one of `hf auth login`.
        transformers: add the files that transformers loads; the backbone must be one that it has.

    Returns:
        The address of the commit or repository.

    Raises:
        FileNotFoundError, ValueError: for weights that are not portable, or a backbone that transformers lacks.
        OSError: if the hub refuses or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_folder(weights, name, folder, transformers=transformers)
        return push(folder, name, private=private, token=token)


def write_folder(
    weights: str | os.PathLike, name: str, folder: str | os.PathLike, *, transformers: bool = True
) -> None:
    """Write what `push_to_hub` uploads: the portable file, a model card, and transformers' files."""
    weights, folder = os.fspath(weights), Path(folder)
    cfg, terms = build_portable_config(weights)
    _, metadata = load_portable_header(weights)
    names = metadata["stuff_classes"]
    if transformers:
        cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.IS_TRAIN", False])
        things = sorted(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
        try:
            exporter = HuggingFaceExporter(cfg, class_names=names, thing_classes=things)
        except ValueError as error:
            raise ValueError(f"{error}; publish it for this package alone: --no-transformers") from error
        model = build_model(cfg)
        Checkpointer(model).load(weights)
        exporter.save(model, folder)
    shown = ", ".join(names[:30]) + (", ..." if len(names) > 30 else "")
    card = _CARD.format(
        name=name, count=len(names), classes=shown, terms=terms,
        transformers=_TRANSFORMERS.format(name=name) if transformers else "",
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(card, encoding="utf-8")
    shutil.copyfile(weights, folder / PORTABLE_FILE)
