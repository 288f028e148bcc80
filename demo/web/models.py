"""The two predictors, loaded when the page starts; SegGPT's may be absent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oneformer import OneFormerPredictor
from seggpt import SegGPTPredictor

_WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
NO_SEGGPT = (
    "SegGPT's weights are not here, so this tab cannot run. Start the page with "
    "--seggpt-weights FILE (BAAI's seggpt_vit_large.pth, a Hugging Face folder, or a file trained here)."
)


@dataclass
class Models:
    """What the page's tabs ask.

    Attributes:
        oneformer: finds things by itself.
        seggpt: finds what examples show; None without weights.
    """

    oneformer: OneFormerPredictor
    seggpt: SegGPTPredictor | None

    def need_seggpt(self) -> SegGPTPredictor:
        """SegGPT.

        Raises:
            ValueError: if there are no weights.
        """
        if self.seggpt is None:
            raise ValueError(NO_SEGGPT)
        return self.seggpt


def bundled_seggpt() -> str | None:
    """The small SegGPT weights of this clone, if it has them."""
    found = sorted(_WEIGHTS.glob("seggpt*.safetensors"))
    return str(found[0]) if found else None


def load_models(
    config_file: str | None = None,
    weights: str | None = None,
    seggpt_config_file: str | None = None,
    seggpt_weights: str | None = None,
    device: str | None = None,
) -> Models:
    """Load both predictors; None takes the bundled weights.

    Raises:
        FileNotFoundError, OSError, ValueError: one sentence that says what is wrong with the weights.
    """
    seggpt_weights = seggpt_weights or bundled_seggpt()
    seggpt = None
    if seggpt_weights or seggpt_config_file:
        seggpt = SegGPTPredictor(seggpt_config_file, seggpt_weights, device)
    return Models(OneFormerPredictor(config_file, weights, device), seggpt)
