"""A picture in, typed results out."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances

from segcore.memory import keep_freed_memory
from segcore.ops.fastest import fastest
from segcore.ops.precision import Bfloat16Products, bfloat16_is_fast
from segcore.predictions import Classes, InstanceResult, PanopticResult, Prediction, SemanticResult

from .compiling import compile_parts
from .data.augmentation import ResizeShortestEdge
from .loading import build_loaded
from .modeling import OneFormer
from .tasks import PANOPTIC, expand_task

INSTANCE_CONFIDENCE = 0.5  # where neither the caller nor the config says one
PRECISIONS = ("fp32", "bf16")


class OneFormerPredictor:
    """Segments pictures for one task or for all three.

    >>> predictor = OneFormerPredictor()                       # the bundled weights
    >>> found = predictor(image, task="all")                   # image: (H, W, 3) uint8 RGB
    >>> found.panoptic.ids, found.panoptic.segments            # (H, W) ids; what each of them is
    >>> found.instance.masks, found.instance.scores            # (N, H, W) bool; (N,)
    >>> found.semantic.labels, found.semantic.names            # (H, W) class indices; class names

    Attributes:
        classes: what the model tells apart.
        device: where it runs.
        weights, terms: where its weights came from, and the terms of their training data if they carry them.
    """

    def __init__(
        self,
        cfg: CfgNode | str | os.PathLike | None = None,
        weights: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        *,
        confidence: float | None = None,
        precision: str = "fp32",
        compiled: bool = False,
        opts: Sequence[str] = (),
    ) -> None:
        """
        Args:
            cfg: Detectron2 config, or the path of one; None takes the config inside of the weights.
            weights: portable `.safetensors`, or `hf:ORG/NAME` of one; with `cfg` also `.pth`, a Hugging Face
                folder, and its `hf:ORG/NAME`. None takes `cfg.MODEL.WEIGHTS`, and without `cfg` the bundled weights.
            device: "cpu", "cuda", ...; by default what the config says or the machine has.
            confidence: least score, 0..1, of an instance and of a panoptic segment. None: 0.5 for instances,
                the config's MODEL.TEST.OBJECT_MASK_THRESHOLD for panoptic segments.
            precision: "fp32", or "bf16": on a CPU its large products are rounded to bfloat16, which pays where it
                has AVX-512 BF16 or AMX; on a GPU autocast. Results differ a little.
            compiled: use torch.compile. The first picture then takes minutes; every size after it runs the same code.
            opts: KEY VALUE pairs for the config.

        On a CPU it lets the process keep memory between pictures, see `segcore.memory.keep_freed_memory`.

        Raises:
            FileNotFoundError, OSError, ValueError: one sentence that says what is wrong, see `build_loaded`.
        """
        _check_confidence(confidence)
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
        loaded = build_loaded(cfg, weights, device, opts)
        self.model, self._runner = loaded.model, loaded.runner
        self.classes: Classes = loaded.classes
        self.device = loaded.model.device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.weights, self.terms = loaded.weights, loaded.terms
        self.confidence = confidence
        self._precision = _precision(precision, compiled, self.model)
        if compiled:
            compile_parts(self.model)
        self._resize = ResizeShortestEdge(loaded.min_size, loaded.max_size)
        self._channel_order = loaded.channel_order
        self._lock = threading.Lock()  # the panoptic threshold is a setting of the model

    def __call__(
        self, image: np.ndarray, task: str = PANOPTIC, *, confidence: float | None = None
    ) -> Prediction:
        """Segment one picture.

        Args:
            image: (H, W, 3) uint8 RGB.
            task: "panoptic", "instance", "semantic", or "all": backbone and pixel decoder then run once.
            confidence: for this call; see the constructor.

        Returns:
            A `Prediction` at the picture's size.

        Raises:
            ValueError: for an array that is no picture, an unknown task, or a confidence outside of 0..1.
        """
        return self.batch([image], task, confidence=confidence)[0]

    def batch(
        self, images: Sequence[np.ndarray], task: str = PANOPTIC, *, confidence: float | None = None
    ) -> list[Prediction]:
        """Segment several pictures at once, of any sizes; each gets what it would get alone."""
        expand_task(task)  # raises for an unknown one, before any work
        _check_confidence(confidence)
        confidence = self.confidence if confidence is None else confidence
        least = INSTANCE_CONFIDENCE if confidence is None else confidence
        inputs = [self._input(image, task, least) for image in images]
        if not inputs:
            return []
        outputs = self._run(inputs, confidence)
        return [self._prediction(x, output, least) for x, output in zip(inputs, outputs, strict=True)]

    def _run(self, inputs: list[dict], confidence: float | None) -> list[dict]:
        with self._lock, torch.inference_mode(), fastest(), self._precision:
            configured = self.model.object_threshold
            self.model.object_threshold = configured if confidence is None else confidence
            try:
                return self._runner(inputs)
            finally:
                self.model.object_threshold = configured

    def _input(self, image: np.ndarray, task: str, least: float = 0.0) -> dict:
        _check_image(image)
        height, width = image.shape[:2]
        if self._channel_order == "BGR":
            image = image[..., ::-1]
        # C order: the transform hands the memory to an image library.
        image = np.ascontiguousarray(image)
        resized = self._resize.get_transform(image).apply_image(image)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        wanted = {"task": task, "semantic_labels": True, "least_score": least}
        return {"image": tensor, "original_image": image, "height": height, "width": width, **wanted}

    def _prediction(self, x: dict, output: dict, least: float) -> Prediction:
        return Prediction(
            size=(x["height"], x["width"]),
            classes=self.classes,
            panoptic=self._panoptic(*output["panoptic_seg"]) if "panoptic_seg" in output else None,
            instance=self._instances(output["instances"], least) if "instances" in output else None,
            semantic=self._semantic(output),
        )

    def _panoptic(self, ids: torch.Tensor, segments: list[dict]) -> PanopticResult:
        class_of = {segment["id"]: segment["category_id"] for segment in segments}
        return PanopticResult.from_map(ids.cpu().numpy(), class_of, self.classes)

    def _instances(self, found: Instances, least: float) -> InstanceResult:
        # A mask without a pixel is no object, whatever its class score. Boxes are tight: an empty one tells.
        wanted = (found.scores >= least) & found.pred_boxes.nonempty()
        kept = (found if wanted.all() else found[wanted]).to("cpu")   # indexing copies masks
        indices = kept.pred_classes.numpy()
        if self.classes.instance_numbers is not None:
            indices = np.array([self.classes.instance_numbers[n] for n in indices.tolist()], np.int64)
        return InstanceResult(
            masks=kept.pred_masks.numpy(),
            boxes=kept.pred_boxes.tensor.float().numpy(),
            scores=kept.scores.float().numpy(),
            class_indices=indices,
            names=[self.classes.names[i] for i in indices.tolist()],
        )

    def _semantic(self, output: dict) -> SemanticResult | None:
        if "sem_seg" in output:   # windows and test-time augmentation join scores
            scores = output["sem_seg"]
            labels = scores.argmax(0).to(torch.uint8 if len(scores) <= 256 else torch.int32)
        elif "semantic_labels" in output:
            labels = output["semantic_labels"]
        else:
            return None
        return SemanticResult(labels.cpu().numpy(), self.classes.names)


def _precision(name: str, compiled: bool, model: OneFormer) -> AbstractContextManager:
    if name == "fp32":
        return nullcontext()
    if model.device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16)
    if compiled:
        raise ValueError("on a CPU, precision bf16 and torch.compile do not combine: choose one of them")
    if not bfloat16_is_fast():
        logging.getLogger(__name__).warning("this processor has no instructions for bfloat16: fp32 is faster on it")
    return Bfloat16Products(keep=model.full_precision_parts())


def _check_confidence(confidence: float | None) -> None:
    if confidence is not None and not 0 <= confidence <= 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")


def _check_image(image: np.ndarray) -> None:
    good = (
        isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    )
    if not good or 0 in image.shape:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(
            f"an image must be a (height, width, 3) uint8 RGB array with pixels, got {got}; "
            "segcore.data.photo.read_photo reads one from a file"
        )
