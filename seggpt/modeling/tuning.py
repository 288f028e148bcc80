"""In-context tuning: a frozen SegGPT and a prompt that is learnt (SegGPT, arXiv:2304.03284, sec. 3.3 and 4.6)."""

from __future__ import annotations

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from segcore.registry import register_once
from seggpt.modeling.in_context import encode_prompts, paint
from seggpt.modeling.loss import inpainting_loss
from seggpt.modeling.seggpt import SegGPT
from seggpt.modeling.training_pictures import Gallery, episode_picture


@register_once(META_ARCH_REGISTRY)
class SegGPTTuner(nn.Module):
    """Trains an example picture and its painting, which no camera took, so that they stand for a whole task.

    The network stays as it is and in eval mode, so that stochastic depth is off. The painting carries the colour
    of every class, so the task's targets keep a fixed colour per class.

    Args:
        model: with its weights loaded or to be loaded; is frozen here.
        seg_type: 0 for a task by category, 1 by instance.
        beta: of the loss, see `inpainting_loss`.
        vis_period: training steps between two pictures of the prompt and of questions under it; 0: none.

    Attributes:
        prompt_image, prompt_target: (3, h, w), learnt, normalised colours. The first batch gives their first
            values (a real pair of the task; noise would be far from what the network knows).
    """

    @configurable
    def __init__(self, *, model: SegGPT, seg_type: int = 0, beta: float = 0.01, vis_period: int = 0):
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.gallery = Gallery(vis_period)
        self.seg_type, self.beta = seg_type, beta
        height, width = model.img_size[0] // 2, model.img_size[1]
        self.prompt_image = nn.Parameter(torch.zeros(3, height, width))
        self.prompt_target = nn.Parameter(torch.zeros(3, height, width))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @classmethod
    def from_config(cls, cfg) -> dict:
        from seggpt.loading import load_weights

        t = cfg.MODEL.SEGGPT.TUNING
        if not t.NETWORK:
            raise ValueError("MODEL.SEGGPT.TUNING.NETWORK is empty; name the weights to tune a prompt for")
        network = SegGPT(cfg)
        load_weights(network, t.NETWORK)
        return {
            "model": network,
            "seg_type": int(t.INSTANCE),
            "beta": cfg.MODEL.SEGGPT.LOSS_BETA,
            "vis_period": cfg.VIS_PERIOD,
        }

    @property
    def device(self) -> torch.device:
        return self.prompt_image.device

    def train(self, mode: bool = True) -> SegGPTTuner:
        """The network stays in eval mode."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """Loss of the queries' paintings under the prompt.

        Args:
            batched_inputs: "image" and "target" (3, h, w) RGB 0..255, "valid" (3, h, w).

        Returns:
            {"loss_inpaint": scalar}.
        """
        images, targets, valid = (
            torch.stack([torch.as_tensor(d[key]) for d in batched_inputs]).to(self.device)
            for key in ("image", "target", "valid")
        )
        images, targets = self.model.normalize(images), self.model.normalize(targets)
        if not self.started:
            self._start_from(images[0], targets[0])
        prompts = encode_prompts(
            self.model, self.prompt_image[None, None], self.prompt_target[None, None, None], self.seg_type
        )
        painted = paint(self.model, images, prompts)[:, 0]
        self.gallery.show("prompt", lambda: self._picture(images, targets, painted))
        hidden = torch.ones(1, painted[0, 0].numel() // self.model.patch_size**2, device=self.device)
        loss = inpainting_loss(
            painted, targets, hidden, valid, patch=self.model.patch_size, beta=self.beta, skip_blank=False
        )
        return {"loss_inpaint": loss}

    def _picture(self, images: Tensor, targets: Tensor, painted: Tensor) -> Tensor:
        """The prompt as an example above each question; the question's painting below."""
        rgb, count = self.model.denormalize, len(images)
        above = [rgb(p).expand(count, -1, -1, -1) for p in (self.prompt_image, self.prompt_target)]
        length = 2 * images[0, 0].numel() // self.model.patch_size**2
        mask = (torch.arange(length, device=self.device) >= length // 2)[None]
        canvases = [torch.cat([a, rgb(b)], 2) for a, b in zip((*above, above[1]), (images, targets, painted))]
        return episode_picture(*canvases[:2], mask, canvases[2], self.model.patch_size)

    @torch.no_grad()
    def _start_from(self, image: Tensor, target: Tensor) -> None:
        self.prompt_image.copy_(image)
        self.prompt_target.copy_(target)
        self.started.fill_(True)
