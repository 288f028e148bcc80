"""Images larger than the memory of a device: the model looks through overlapping windows.

Only one window is on the device at a time; what grows with the image is the result
itself.  Where one window covers the image, the results are those of the model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..modeling.mask_resize import MaskResizer
from ..tasks import INSTANCE, PANOPTIC, SEMANTIC, asked_tasks
from .stitching import InstanceCanvas, PanopticCanvas, SemanticCanvas
from .tiling import Window, scaled, windows


class SlidingWindow(nn.Module):
    """A model that sees each image through windows.

    Args:
        model: OneFormer, in eval mode.
        window: (height, width) of a window, pixels of the model's input.
        overlap: least common part of neighbouring windows, 0..<1.
        result_device: where results are joined; None: where the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        window: tuple[int, int],
        overlap: float = 0.25,
        result_device: str | torch.device | None = None,
    ) -> None:
        super().__init__()
        windows((1, 1), window, overlap)  # raises for values that cannot be
        self.model = model
        self.window, self.overlap = tuple(window), overlap
        self.result_device = result_device

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """As `OneFormer.forward` in eval mode, for images that need not fit the device."""
        return [self._segment(x) for x in batched_inputs]

    def _segment(self, x: dict) -> dict:
        size = tuple(x["image"].shape[-2:])
        output_size = (int(x.get("height", size[0])), int(x.get("width", size[1])))
        tasks = asked_tasks(x)
        device = torch.device(self.result_device or self.model.device)
        canvases = {
            SEMANTIC: SemanticCanvas(output_size),
            PANOPTIC: PanopticCanvas(output_size, device),
            INSTANCE: InstanceCanvas(output_size, self.model.max_instances),
        }
        for place in windows(size, self.window, self.overlap):
            shown = {"image": x["image"][(..., *place.seen.slices)], "task": tasks}
            raw = self.model.predict_queries([shown])
            for task, class_logits, mask_logits in zip(tasks, raw["pred_logits"], raw["pred_masks"]):
                self._add(canvases[task], task, class_logits, mask_logits, place, size, output_size, device)
        results = {}
        if SEMANTIC in tasks:
            results["sem_seg"] = canvases[SEMANTIC].result()
        if PANOPTIC in tasks:
            results["panoptic_seg"] = canvases[PANOPTIC].result()
        if INSTANCE in tasks:
            results["instances"] = canvases[INSTANCE].result(device)
        return results

    def _add(
        self,
        canvas: SemanticCanvas | PanopticCanvas | InstanceCanvas,
        task: str,
        class_logits: Tensor,
        mask_logits: Tensor,
        place: Window,
        size: tuple[int, int],
        output_size: tuple[int, int],
        device: torch.device,
    ) -> None:
        """One window's queries, post-processed at its own place in the result, onto the canvas."""
        seen, core = (scaled(rectangle, size, output_size) for rectangle in place)
        resize = MaskResizer(self.model.padded_size(place.seen.size), place.seen.size, seen.size)
        found = self.model.postprocess(task, class_logits, mask_logits, resize)
        if task == SEMANTIC:
            canvas.add(found["sem_seg"].to(device), seen)
        elif task == PANOPTIC:
            ids, segments = found["panoptic_seg"]
            canvas.add(ids.to(device), segments, seen, core)
        else:
            canvas.add(found["instances"].to(device), seen)
