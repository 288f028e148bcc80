"""An image's masks as maps of numbers: a byte per pixel, however many masks there are.

Shapes:  M masks, L layers, H, W size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class LayeredMasks:
    """Stands in for a bool tensor (M, H, W) and is as large as its maps.

    Mask m is where layer `layer[m]` has the value `number[m]`. Masks of one layer do not overlap; one layer
    is enough for panoptic and semantic labels. `tensor` gives the masks themselves; torch functions and NumPy
    take this object where they take that tensor.

    Args:
        maps: (L, H, W) uint8 or int32.
        layer, number: (M,) int64.

    Raises:
        ValueError: if the shapes are not these.
    """

    dtype = torch.bool

    def __init__(self, maps: Tensor, layer: Tensor, number: Tensor) -> None:
        if maps.dim() != 3 or layer.dim() != 1 or layer.shape != number.shape:
            raise ValueError(
                f"expected maps (L, H, W), layer (M,), number (M,); got {tuple(maps.shape)}, "
                f"{tuple(layer.shape)}, {tuple(number.shape)}"
            )
        self.maps, self.layer, self.number = maps, layer, number

    @classmethod
    def from_tensor(cls, masks: Tensor) -> LayeredMasks:
        """Of (M, H, W) bool masks that may overlap: each is a layer of its own."""
        count = len(masks)
        layer = torch.arange(count, device=masks.device)
        return cls(masks.bool().view(torch.uint8), layer, torch.ones_like(layer))

    @classmethod
    def join(cls, parts: Sequence[LayeredMasks]) -> LayeredMasks:
        """The masks of several, which are of one size; each keeps its layers."""
        dtype = torch.uint8 if all(p.maps.dtype == torch.uint8 for p in parts) else torch.int32
        first = np.cumsum([0, *(len(p.maps) for p in parts)]).tolist()
        return cls(
            torch.cat([p.maps.to(dtype) for p in parts]),
            torch.cat([p.layer + f for p, f in zip(parts, first)]),
            torch.cat([p.number for p in parts]),
        )

    @property
    def tensor(self) -> Tensor:
        """(M, H, W) bool."""
        return self.maps[self.layer] == self.number[:, None, None].to(self.maps.dtype)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.maps.shape[1:]))

    @property
    def device(self) -> torch.device:
        return self.maps.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> LayeredMasks:
        return LayeredMasks(
            *(t.to(device, non_blocking=non_blocking) for t in (self.maps, self.layer, self.number))
        )

    def pin_memory(self) -> LayeredMasks:
        return LayeredMasks(self.maps.pin_memory(), self.layer.pin_memory(), self.number.pin_memory())

    def numpy(self) -> np.ndarray:
        return self.tensor.numpy()

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.numpy(), dtype)

    def __getattr__(self, name: str):
        """Methods of the tensor that it stands for: `sum`, `any`, `flatten`, ..."""
        if name.startswith("__") or name in ("maps", "layer", "number"):   # not there yet: being unpickled
            raise AttributeError(name)
        return getattr(self.tensor, name)

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, item) -> Tensor | LayeredMasks:
        """Some of the masks; pixels where the index names them: one mask for an int, any part for a tuple."""
        if isinstance(item, int):
            return self.maps[self.layer[item]] == self.number[item].to(self.maps.dtype)
        if isinstance(item, tuple):
            return self.tensor[item]
        return LayeredMasks(self.maps, self.layer[item], self.number[item])

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        def expanded(x):
            if isinstance(x, LayeredMasks):
                return x.tensor
            return type(x)(map(expanded, x)) if isinstance(x, (list, tuple)) else x

        return function(*expanded(args), **{k: expanded(v) for k, v in (kwargs or {}).items()})

    def __repr__(self) -> str:
        return f"LayeredMasks({len(self)} of {tuple(self.maps.shape[1:])} in {len(self.maps)} layers)"
