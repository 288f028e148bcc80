"""A tuned prompt as the handle that `SegGPTPredictor.load_prompts` reads."""

from __future__ import annotations

import numpy as np
import torch

from seggpt.modeling.in_context import encode_prompts
from seggpt.modeling.tuning import SegGPTTuner
from seggpt.prompts import TYPES, Prompts, fingerprint


@torch.no_grad()
def tuned_prompts(tuner: SegGPTTuner, colours: np.ndarray) -> Prompts:
    """The learnt prompt of a tuner; label i + 1 is the class of the i-th colour.

    Args:
        colours: (classes, 3) uint8, those of the training (`seggpt.data.colouring.fixed_colours`); (0, 3) for a
            task by instance, whose painting is read by place.
    """
    model = tuner.model
    image, target = tuner.prompt_image.detach(), tuner.prompt_target.detach()
    features = encode_prompts(model, image[None, None], target[None, None, None], tuner.seg_type)

    def picture(colour: torch.Tensor) -> np.ndarray:
        return model.denormalize(colour).round().byte().permute(1, 2, 0).cpu().numpy()

    return Prompts(
        type=TYPES[tuner.seg_type],
        ensemble="feature",
        separate=False,
        labels=np.arange(1, len(colours) + 1, dtype=np.int64),
        colours=colours,
        images=picture(image)[None],
        targets=picture(target)[None, None],
        features=features,
        fingerprint=fingerprint(model),
    )
