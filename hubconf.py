"""Entry points of torch.hub.

torch.hub.load("ORG/REPOSITORY", "oneformer")                                  # the bundled weights
torch.hub.load(".", "oneformer", source="local", weights="hf:ORG/NAME", device="cuda")
torch.hub.load(".", "seggpt", source="local", weights="seggpt_vit_large.pth")

They return predictors: pictures in, typed results out.
"""

dependencies = ["torch", "detectron2", "timm", "scipy", "safetensors", "pycocotools", "cv2", "fvcore"]


def oneformer(weights=None, config=None, device=None, **options):
    """A `oneformer.OneFormerPredictor`.

    Args:
        weights: portable `.safetensors`, `hf:ORG/NAME`; with `config` also `.pth` or a Hugging Face folder.
            None takes the small bundled ones.
        config: path of the config that the weights belong to.
        device: "cpu", "cuda", ...; by default what the machine has.
        options: confidence, opts.
    """
    from oneformer import OneFormerPredictor

    return OneFormerPredictor(config, weights, device, **options)


def seggpt(weights=None, config=None, device=None, **options):
    """A `seggpt.SegGPTPredictor`.

    Args:
        weights: portable `.safetensors`, the released `.pth`, a Hugging Face folder or `hf:ORG/NAME`.
        config: path of the config, where the weights do not say.
        device: "cpu", "cuda", ...; by default what the machine has.
        options: dtype, batch_size, targets_at_once.
    """
    from seggpt import SegGPTPredictor

    return SegGPTPredictor(config, weights, device, **options)
