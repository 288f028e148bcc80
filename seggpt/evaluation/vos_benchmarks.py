"""Where the benchmarks of video object segmentation keep their files, and what each asks for.

Under the folder of the release:
    davis2016, davis2017   JPEGImages/480p  Annotations/480p  ImageSets/{2016,2017}/val.txt
    youtube-vos            valid/JPEGImages  valid/Annotations, and valid_all_frames/JPEGImages where it is there
    mose                   valid/JPEGImages  valid/Annotations
DAVIS's validation clips come with all labels and are judged here; the other two have servers.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from .vos import Clip, find_clips


class Benchmark(NamedTuple):
    """Paths under the release's folder.

    Attributes:
        frames: folders of frames; the first that is there is followed.
        asked: folder of the frames that answers are asked for, if not all that are followed.
        names: file with a clip's name a line; None: all clips that have labels.
        judged: the labels of all frames are there.
        single, every_label: see `seggpt.evaluation.vos`.
    """

    frames: tuple[str, ...]
    labels: str
    names: str | None = None
    asked: str | None = None
    judged: bool = False
    single: bool = False
    every_label: bool = False


_DAVIS = {"frames": ("JPEGImages/480p",), "labels": "Annotations/480p", "judged": True}
BENCHMARKS = {
    "davis2016": Benchmark(**_DAVIS, names="ImageSets/2016/val.txt", single=True),
    "davis2017": Benchmark(**_DAVIS, names="ImageSets/2017/val.txt"),
    "youtube-vos": Benchmark(
        ("valid_all_frames/JPEGImages", "valid/JPEGImages"), "valid/Annotations", asked="valid/JPEGImages",
        every_label=True,
    ),
    "mose": Benchmark(("valid/JPEGImages",), "valid/Annotations"),
}  # fmt: skip


def benchmark_clips(benchmark: Benchmark, root: str | os.PathLike, names: list[str]) -> list[Clip]:
    """The benchmark's clips, or those named.

    Raises:
        FileNotFoundError: a folder, the list or a clip is not there.
    """
    root = Path(root)
    if not names and benchmark.names is not None:
        path = root / benchmark.names
        if not path.is_file():
            raise FileNotFoundError(f"there is no list of clips {path}; give --root the release's folder, or --clips")
        names = path.read_text(encoding="utf-8").split()
    frames = next((root / f for f in benchmark.frames if (root / f).is_dir()), root / benchmark.frames[-1])
    return find_clips(frames, root / benchmark.labels, names, single=benchmark.single)


def asked_frames(benchmark: Benchmark, root: str | os.PathLike, clips: list[Clip]) -> dict[str, set[str]] | None:
    """Clip -> stems of the frames that the server wants; None: all."""
    if benchmark.asked is None:
        return None
    return {clip.name: {p.stem for p in (Path(root) / benchmark.asked / clip.name).iterdir()} for clip in clips}
