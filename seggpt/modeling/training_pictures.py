"""What training shows in TensorBoard every VIS_PERIOD steps: episodes, and what the network made of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor

from seggpt.modeling.loss import pixel_mask

SHOWN = 4  # canvases of a batch
_GREY = 127.0


class Gallery:
    """Puts a picture into the event storage once per shown step, in the first process.

    Args:
        period: steps between two pictures; 0: none.
    """

    def __init__(self, period: int):
        self.period = period
        self._last = -1

    def show(self, name: str, make: Callable[[], Tensor]) -> None:
        """Put `make()`, (3, H, W) uint8 RGB, under `name`, if this step is to be shown."""
        if not self.period or not has_event_storage() or not comm.is_main_process():
            return
        storage = get_event_storage()
        if storage.iter % self.period or storage.iter == self._last:
            return  # several batches may make one step
        self._last = storage.iter
        storage.put_image(name, make())


@torch.no_grad()
def episode_picture(images: Tensor, targets: Tensor, mask: Tensor, painted: Tensor, patch: int) -> Tensor:
    """Canvases below each other: picture, target as the network sees it (hidden: grey), its painting, target.

    Args:
        images, targets, painted: (N, 3, H, W), RGB 0..255. mask: (N or 1, L), 1 = hidden.

    Returns:
        (3, n * H, 4 * W) uint8 on the CPU, of the first `SHOWN` canvases.
    """
    hidden = pixel_mask(mask.float(), *targets.shape[-2:], patch).expand(len(targets), -1, -1, -1)
    seen = torch.where(hidden > 0, _GREY, targets.float())
    columns = torch.cat([part[:SHOWN].float() for part in (images, seen, painted, targets)], -1)
    return columns.transpose(0, 1).flatten(1, 2).round().clamp(0, 255).byte().cpu()
