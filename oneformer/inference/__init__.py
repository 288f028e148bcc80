"""More ways to run a trained model: test-time augmentation, and windows for images larger than memory."""

from .augmented import TestTimeAugmentation
from .build import build_inference
from .windows import SlidingWindow

__all__ = ["SlidingWindow", "TestTimeAugmentation", "build_inference"]
