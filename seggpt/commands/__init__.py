"""SegGPT (arXiv:2304.03284): segments what a few example pictures show it.

  seggpt predict --weights W --prompt-image cat1.jpg --prompt-mask cat1.png --type semantic --input 'cats/*.jpg'
  seggpt predict --weights W --prompt-mask 00000.png --input clip.mp4
  seggpt train --config-file CFG
  seggpt vos --benchmark davis2017 --root DAVIS --weights W
"""

from __future__ import annotations

from collections.abc import Sequence

from segcore.command import Command, run_commands

COMMANDS = {
    "predict": Command("segment pictures and clips after examples", "seggpt.commands.predict"),
    "train": Command("train as a config says, on CPU or GPUs", "seggpt.commands.train"),
    "vos": Command("follow objects through DAVIS, YouTube-VOS or MOSE", "seggpt.commands.vos"),
    "evaluate": Command("measure weights on the config's test sets", "seggpt.commands.evaluate"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The console program `seggpt`; returns the exit status."""
    return run_commands("seggpt", __doc__, COMMANDS, argv)
