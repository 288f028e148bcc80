"""A prompt set that can be reused, saved and loaded."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from segcore.checkpoint.files import atomic_path
from seggpt.modeling import SegGPT
from seggpt.modeling.in_context import PromptFeatures

_KIND = "seggpt prompts"
_VERSION = 1
TYPES = ("semantic", "instance")  # index = the network's seg_type
ENSEMBLES = ("feature", "spatial")


@dataclass(frozen=True)
class Prompts:
    """What `SegGPTPredictor.encode_prompts` returns.

    K prompts (1 after a spatial ensemble), L labels, P = L targets where each label has its own, else 1;
    (h, w) pixels of one half of the network's canvas.

    Attributes:
        type: "semantic" or "instance".
        ensemble: how several prompts act together, "feature" or "spatial".
        separate: whether each label is painted on its own, in white.
        labels: (L,) int64, the values that the label map of an answer can have besides 0.
        colours: (L, 3) uint8, the colour of each label.
        images: (K, h, w, 3) uint8, as the network sees them.
        targets: (P, K, h, w, 3) uint8, their paintings.
        features: what the network made of them.
        fingerprint: of the model that did.
    """

    type: str
    ensemble: str
    separate: bool
    labels: np.ndarray
    colours: np.ndarray
    images: np.ndarray
    targets: np.ndarray
    features: PromptFeatures
    fingerprint: str

    def label_maps(self) -> list[np.ndarray]:
        """(h, w) int32 labels of each prompt, read back from its painting, which is exact."""
        maps = []
        for k in range(len(self.images)):
            labels = np.zeros(self.images.shape[1:3], np.int32)
            for i, label in enumerate(self.labels):
                painted = self.targets[i if self.separate else 0, k]
                colour = 255 if self.separate else self.colours[i]
                labels[(painted == colour).all(-1)] = label
            maps.append(labels)
        return maps

    def covered(self) -> list[tuple[int, int]]:
        """(height, width) of each canvas from its top left that is not padding, in whole patches."""
        size, padding = self.images.shape[1:3], self.features.padding
        if padding is None:
            return [size] * len(self.images)
        grid = (self.features.tables.height // 2, self.features.tables.width)
        seen = ~padding[0].cpu().numpy().reshape(-1, *grid)
        patch = size[0] // grid[0]
        return [(int(s.any(1).sum()) * patch, int(s.any(0).sum()) * patch) for s in seen]

    def save(self, path: str | os.PathLike) -> None:
        """Write one `.safetensors` file, whole or not at all; `SegGPTPredictor.load_prompts` reads it."""
        if not os.fspath(path).endswith(".safetensors"):
            raise ValueError(f"a prompt file ends in .safetensors, got {os.fspath(path)!r}")
        f = self.features
        tensors = {"image": f.image, "target": f.target, "query_target": f.query_target}
        if f.padding is not None:
            tensors["padding"] = f.padding
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        for name in ("labels", "colours", "images", "targets"):
            tensors[name] = torch.from_numpy(np.ascontiguousarray(getattr(self, name)))
        header = {
            "version": _VERSION,
            "type": self.type,
            "ensemble": self.ensemble,
            "separate": self.separate,
            "fingerprint": self.fingerprint,
        }
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={_KIND: json.dumps(header)})


def load_prompts(path: str | os.PathLike, model: SegGPT) -> Prompts:
    """Read a file that `Prompts.save` wrote, for the model that made it.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, no prompt file, or another model's.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no prompt file {path!r}")
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(_KIND)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError(
            f"cannot read the prompt file {path!r}: {error}; it is damaged or of another kind"
        ) from error
    if header is None:
        raise ValueError(f"{path!r} holds no prompts; Prompts.save writes such files")
    header = json.loads(header)
    if header["version"] != _VERSION:
        raise ValueError(f"{path!r} has prompt format {header['version']}; this version reads {_VERSION}")
    if header["fingerprint"] != fingerprint(model):
        raise ValueError(
            f"{path!r} was made by another model (or by this one in another precision); "
            "encode the prompts again with encode_prompts"
        )
    images = tensors["images"].numpy()
    moved = {
        k: tensors[k].to(model.device) for k in ("image", "target", "query_target", "padding") if k in tensors
    }
    features = PromptFeatures(
        model.tables(2 * images.shape[1], images.shape[2]), TYPES.index(header["type"]), **moved
    )
    return Prompts(
        header["type"],
        header["ensemble"],
        header["separate"],
        tensors["labels"].numpy(),
        tensors["colours"].numpy(),
        images,
        tensors["targets"].numpy(),
        features,
        header["fingerprint"],
    )


def fingerprint(model: SegGPT) -> str:
    """A short digest of the architecture, the precision and a few weights of every tensor."""
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        some = value.detach().flatten()
        ends = torch.cat([some[:8], some[-8:]]).float().cpu().numpy()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode() + ends.tobytes())
    return digest.hexdigest()[:16]
