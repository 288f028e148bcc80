"""OneFormer (arXiv:2211.06220): one model, trained once, segments a picture three ways.

  oneformer predict --task all --input photo.jpg clip.mp4 --output results
  oneformer train --config-file configs/mini/oneformer_mini.yaml
  oneformer evaluate --config-file CFG --weights model.pth
"""

from __future__ import annotations

from collections.abc import Sequence

from segcore.command import Command, run_commands

COMMANDS = {
    "predict": Command("segment pictures, videos or a camera; write pictures and data", "oneformer.commands.predict"),
    "train": Command("train as a config says, on CPU or GPUs", "oneformer.commands.train"),
    "evaluate": Command("measure weights: all tasks, one table", "oneformer.commands.evaluate"),
    "push": Command("publish weights on the Hugging Face hub", "oneformer.commands.push"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The console program `oneformer`; returns the exit status."""
    return run_commands("oneformer", __doc__, COMMANDS, argv)
