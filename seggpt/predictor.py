"""Examples in, label maps out.

predictor = SegGPTPredictor(weights="seggpt_vit_large.pth")
prompts = predictor.encode_prompts([picture], [mask], type="instance")
label_map, scores, painting = predictor(other_picture, prompts)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor

from segcore.memory import keep_freed_memory
from seggpt import colours as colour_tools
from seggpt import pictures
from seggpt.labels import check_count, check_pairs, read_mask, unify
from seggpt.loading import build_loaded
from seggpt.modeling import SegGPT
from seggpt.modeling.in_context import encode_prompts, paint
from seggpt.prompts import ENSEMBLES, TYPES, Prompts, fingerprint, load_prompts


class Prediction(NamedTuple):
    """The answer for one image of (H, W) pixels.

    Attributes:
        label_map: (H, W) int32, a prompt label or 0.
        scores: label -> (H, W) float32 in [0, 1], see `seggpt.colours.read_painting`.
        painting: (H, W, 3) uint8, the network's colours as they are; with one target per label, each
            label's intensity in its colour, the strongest on top.
    """

    label_map: np.ndarray
    scores: dict[int, np.ndarray]
    painting: np.ndarray


class SegGPTPredictor:
    """Segments pictures after examples.

    Attributes:
        model: in eval mode, on its device.
        size: (height, width) of one picture on the network's canvas.
    """

    def __init__(
        self,
        cfg: CfgNode | str | os.PathLike | None = None,
        weights: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        dtype: torch.dtype | None = None,
        model: SegGPT | None = None,
        batch_size: int = 4,
        targets_at_once: int = 8,
    ):
        """
        Args:
            cfg, weights, device, dtype: see `seggpt.loading.build_loaded`.
            model: a built model instead of the four.
            batch_size: pictures (or tiles) that go through the network together.
            targets_at_once: targets of one picture that do, where each label has its own.

        Raises:
            FileNotFoundError, OSError, ValueError: see `seggpt.loading.build_loaded`.
        """
        self.model = (model if model is not None else build_loaded(cfg, weights, device, dtype)).eval()
        if self.model.device.type == "cpu":
            keep_freed_memory()
        self.size = (self.model.img_size[0] // 2, self.model.img_size[1])
        self.batch_size = batch_size
        self.targets_at_once = targets_at_once
        self._fingerprint = fingerprint(self.model)

    # ---- prompts ----------------------------------------------------------------------------

    def encode_prompts(
        self,
        images: Any,
        masks: Any,
        type: str = "instance",
        *,
        ensemble: str = "feature",
        separate: bool = False,
        fit: str = "squash",
    ) -> Prompts:
        """Prepare examples once for any number of pictures.

        Args:
            images: (H, W, 3) uint8 RGB, or a list of them, of any sizes.
            masks: one per image, of its size, in any form that `seggpt.labels` lists; a label (or a
                colour) means the same in all of them.
            type: "instance" for these very objects, "semantic" for things of their kind.
            ensemble: "feature" (the network averages what the query sees in each prompt) or "spatial"
                (the prompts share one canvas in a grid: cheaper, coarser).
            separate: paint each label on its own instead of all in one picture: costs one pass per label
                after the first blocks, and labels cannot be taken for each other's colour.
            fit: "squash" to the canvas, as the released model was used, or "pad", which keeps the aspect.

        Raises:
            TypeError, ValueError: for what cannot be a prompt; the message says which and why.
        """
        _check_choice("type", type, TYPES)
        _check_choice("ensemble", ensemble, ENSEMBLES)
        _check_choice("fit", fit, pictures.FITS)
        images, masks = check_pairs(images, masks)
        maps, labels, painted = unify(
            [
                read_mask(mask, image.shape[:2], type, f"mask {i}")
                for i, (image, mask) in enumerate(zip(images, masks))
            ]
        )
        check_count(len(labels), separate)
        colours = painted if painted is not None else colour_tools.repeated_palette(len(labels))
        fitted = [pictures.fit_picture(image, self.size, fit) for image in images]
        label_maps = [pictures.fit_labels(m, self.size, fit) for m in maps]
        _check_survivors(label_maps, labels, self.size)
        covered = [f.covered for f in fitted]
        return self.encode_canvases(
            [f.pixels for f in fitted],
            label_maps,
            labels,
            colours,
            type=type,
            ensemble=ensemble,
            separate=separate,
            covered=covered,
        )

    def encode_canvases(
        self,
        images: Sequence[np.ndarray],
        label_maps: Sequence[np.ndarray],
        labels: np.ndarray,
        colours: np.ndarray,
        *,
        type: str,
        ensemble: str = "feature",
        separate: bool = False,
        covered: Sequence[tuple[int, int]] | None = None,
    ) -> Prompts:
        """The same for pictures (h, w, 3) and label maps (h, w) that already have the canvas's size."""
        targets = colour_tools.paint_targets(label_maps, labels, colours, separate)
        images = np.stack(list(images))
        if ensemble == "spatial" and len(images) > 1:
            images = pictures.grid_of(list(images), self.size, Image.Resampling.BICUBIC)[None]
            targets = np.stack(
                [pictures.grid_of(list(t), self.size, Image.Resampling.NEAREST) for t in targets]
            )
            targets, covered = targets[:, None], None
        padding = self._padding(covered)
        with torch.inference_mode():
            features = encode_prompts(
                self.model,
                self._normalised(images)[None],
                self._normalised(targets)[None],
                TYPES.index(type),
                None if padding is None else padding[None],
            )
        return Prompts(
            type,
            ensemble,
            separate,
            np.asarray(labels, np.int64),
            colours,
            images,
            targets,
            features,
            self._fingerprint,
        )

    def load_prompts(self, path: str | os.PathLike) -> Prompts:
        """Read what `Prompts.save` wrote; see `seggpt.prompts.load_prompts`."""
        return load_prompts(path, self.model)

    # ---- prediction -------------------------------------------------------------------------

    def __call__(
        self,
        image: Any,
        prompts: Prompts,
        *,
        fit: str = "squash",
        tile: int | None = None,
        overlap: float = 0.25,
        threshold: float = colour_tools.THRESHOLD,
    ) -> Any:
        """Segment one picture, or a list of pictures.

        Args:
            image: (H, W, 3) uint8 RGB of any size, or a list of them.
            fit: "squash" or "pad", see `encode_prompts`.
            tile: cut the picture into squares of so many pixels, which overlap by `overlap` of their side
                and fade into each other; for objects that are small in a large picture. None does not.
            threshold: of a label's score; 0.5 is where a colour is as near to the label's as to black.

        Returns:
            A `Prediction`, or a list of them, at the pictures' own sizes. The painting is resized
            bilinearly and read afterwards.

        Raises:
            TypeError, ValueError: for a picture that is none, or prompts of another model.
        """
        if isinstance(image, (list, tuple)):
            return self.batch(image, prompts, fit=fit, tile=tile, overlap=overlap, threshold=threshold)
        return self.batch([image], prompts, fit=fit, tile=tile, overlap=overlap, threshold=threshold)[0]

    def batch(
        self,
        images: Sequence[Any],
        prompts: Prompts,
        *,
        fit: str = "squash",
        tile: int | None = None,
        overlap: float = 0.25,
        threshold: float = colour_tools.THRESHOLD,
    ) -> list[Prediction]:
        """Segment several pictures; each gets what it would get alone."""
        _check_choice("fit", fit, pictures.FITS)
        self._check_prompts(prompts)
        if not len(prompts.labels):
            raise ValueError(
                "these prompts paint objects by their place, not by label; read them with "
                "seggpt.evaluation.place_decoding.read_places(predictor.paint(image, prompts))"
            )
        if not 0 <= threshold < 1 or not 0 <= overlap < 1 or (tile is not None and tile < 1):
            raise ValueError(
                f"threshold and overlap lie in [0, 1) and tile is positive; got threshold={threshold}, "
                f"overlap={overlap}, tile={tile}"
            )
        checked = [pictures.check_picture(image, f"image {i}") for i, image in enumerate(images)]
        if tile is not None:
            paintings = [self._paint_tiled(image, prompts, fit, tile, overlap) for image in checked]
            return [self._read(p, prompts, threshold) for p in paintings]
        predictions = []
        for start in range(0, len(checked), self.batch_size):
            part = checked[start : start + self.batch_size]
            predictions += [self._read(p, prompts, threshold) for p in self._paint(part, prompts, fit)]
        return predictions

    def paint(self, image: np.ndarray, prompts: Prompts) -> np.ndarray:
        """The network's painting of a picture (H, W, 3) and nothing read from it: (h, w, 3) uint8, of `size`."""
        self._check_prompts(prompts)
        canvas = pictures.fit_picture(pictures.check_picture(image), self.size, "squash").pixels
        painting = self._paint([canvas], prompts, "squash")[0][0]
        return painting.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()

    def canvas_labels(self, prediction: Prediction, fit: str = "squash") -> np.ndarray:
        """A prediction's label map at the network's size, to serve as a prompt for the next frame."""
        return pictures.fit_labels(prediction.label_map, self.size, fit)

    def _check_prompts(self, prompts: Prompts) -> None:
        if not isinstance(prompts, Prompts):
            raise TypeError(
                f"prompts is a {type(prompts).__name__}; make it with encode_prompts or load_prompts"
            )
        if prompts.fingerprint != self._fingerprint:
            raise ValueError(
                "these prompts were encoded by another model (or by this one in another precision); "
                "encode them again with encode_prompts"
            )

    @torch.inference_mode()
    def _paint(self, images: Sequence[np.ndarray], prompts: Prompts, fit: str) -> list[Tensor]:
        """Each image's painting (P, 3, H, W) at its own size, RGB 0..255; (P, 1, H, W) grey of separate labels."""
        fitted = [pictures.fit_picture(image, self.size, fit) for image in images]
        out = paint(
            self.model,
            self._normalised(np.stack([f.pixels for f in fitted])),
            prompts.features,
            padding=self._padding([f.covered for f in fitted]),
            targets_at_once=self.targets_at_once,
        )
        rgb = self.model.denormalize(out)
        if prompts.separate:  # white on black; a third of the memory at the picture's size
            rgb = rgb.mean(2, keepdim=True)
        return [
            F.interpolate(
                p[..., : f.covered[0], : f.covered[1]],
                size=image.shape[:2],
                mode="bilinear",
                align_corners=False,
            )
            for p, f, image in zip(rgb, fitted, images)
        ]

    @torch.inference_mode()
    def _paint_tiled(
        self, image: np.ndarray, prompts: Prompts, fit: str, tile: int, overlap: float
    ) -> Tensor:
        places = list(pictures.windows(image.shape[:2], tile, overlap))
        channels = 1 if prompts.separate else 3
        total = torch.zeros(len(prompts.targets), channels, *image.shape[:2], device=self.model.device)
        weight = torch.zeros(image.shape[:2], device=self.model.device)
        for start in range(0, len(places), self.batch_size):
            part = places[start : start + self.batch_size]
            for place, painted in zip(part, self._paint([image[p] for p in part], prompts, fit)):
                fade = torch.from_numpy(pictures.window_weight(*painted.shape[-2:])).to(painted.device)
                total[(..., *place)] += painted * fade
                weight[place] += fade
        return total / weight

    def _read(self, painting: Tensor, prompts: Prompts, threshold: float) -> Prediction:
        """What `_paint` made of one image -> the prediction."""
        colours = torch.from_numpy(prompts.colours).to(painting.device)
        labels = torch.from_numpy(prompts.labels).to(painting.device)
        if prompts.separate:
            scores = painting[:, 0] / 255
            best, index = scores.max(0)
            painting = colours[index].movedim(-1, 0) * best
        else:
            scores, painting = colour_tools.read_painting(painting[0], colours), painting[0]
        label_map = colour_tools.label_pixels(scores, labels, threshold)
        rgb = painting.round().clamp(0, 255).byte().permute(1, 2, 0)
        return Prediction(
            label_map.cpu().numpy(),
            dict(zip(prompts.labels.tolist(), scores.float().cpu().numpy())),
            rgb.cpu().numpy(),
        )

    def _normalised(self, rgb: np.ndarray) -> Tensor:
        """(..., h, w, 3) uint8 -> (..., 3, h, w) in normalised colours and the model's precision."""
        tensor = torch.from_numpy(np.ascontiguousarray(rgb)).to(self.model.device).movedim(-1, -3)
        return self.model.normalize(tensor).to(self.model.dtype)

    def _padding(self, covered: Sequence[tuple[int, int]] | None) -> Tensor | None:
        if covered is None or all(tuple(c) == self.size for c in covered):
            return None
        tokens = [pictures.padded_tokens(c, self.size, self.model.patch_size) for c in covered]
        return torch.from_numpy(np.stack(tokens)).to(self.model.device)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")


def _check_survivors(label_maps: Sequence[np.ndarray], labels: np.ndarray, size: tuple[int, int]) -> None:
    """Raise ValueError for a mask, or a label of all masks, that resizing has left no pixel of."""
    remedy = f"when resized to {size[1]}x{size[0]}: its objects are too small; crop the image around them"
    for i, label_map in enumerate(label_maps):
        if not label_map.any():
            raise ValueError(f"mask {i} vanishes {remedy}")
    lost = set(labels.tolist()) - {int(v) for m in label_maps for v in np.unique(m)}
    if lost:
        raise ValueError(f"label {min(lost)} of the masks vanishes {remedy}, or remove it from the mask")
