"""A clip segmented frame by frame: what the visitor sees meanwhile, and the files at the end."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segcore.predictions import Prediction
from segcore.video import VideoWriter
from segcore.visualization import render
from seggpt.drawing import save_label_map
from seggpt.video import VideoResult

from .painter import COLORS
from .running import Run
from .uploads import UploadedClip
from .viewer import View, label_views, progress_bar, viewer

_SHOW_EVERY = 0.4  # seconds between the frames that the visitor sees


@dataclass(frozen=True)
class Step:
    """What changed: the line with the bar, the frame (None: as before), and at the end video and archive."""

    status: str
    picture: str | None = None
    video: Path | None = None
    archive: Path | None = None


def label_prediction(labels: np.ndarray, names: Mapping[int, str]) -> Prediction:
    """A label map with the painter's colours."""
    return Prediction.from_label_map(labels, names, {n: COLORS[(n - 1) % len(COLORS)] for n in names})


def follow(
    results: Iterable[VideoResult], clip: UploadedClip, names: Mapping[int, str], folder: Path, stem: str, run: Run
) -> Iterator[Step]:
    """Draw and write the answers as they come.

    Args:
        results: of the clip's frames, in order; the clip is closed at the end, whatever the end is.
        names: of the labels.
        run: is checked at every frame.
        folder: gets STEM.webm and STEM_masks.zip (label maps in DAVIS's palette, names in labels.json).

    Raises:
        Cancelled: at the frame at which the visitor cancels the run; there is no video then.
    """
    start = shown = time.perf_counter()
    done, labels = 0, np.zeros((1, 1), np.int32)
    archive = folder / f"{stem}_masks.zip"
    movie = folder / f"{stem}.webm"  # VP8: plays in every browser, and every OpenCV wheel writes it
    try:
        with VideoWriter(movie, clip.fps) as video, zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as masks:
            for result in results:
                run.check()
                pixels, labels = result.frame.pixels, result.prediction.label_map
                drawn = render(pixels, label_prediction(labels, names), "panoptic", max(pixels.shape[:2]))
                video.add(drawn)
                _add_mask(masks, folder, result.frame.name, labels)
                done += 1
                now = time.perf_counter()
                picture = None
                if done == 1 or now - shown > _SHOW_EVERY:
                    picture, shown = viewer([View(f"Frame {done}", drawn)]), now
                yield Step(progress_bar(done, clip.count, _pace(done, clip.count, now - start)), picture)
            masks.writestr("labels.json", json.dumps({str(n): name for n, name in names.items()}, indent=1))
    finally:
        clip.close()
    seconds = time.perf_counter() - start
    views = label_views(pixels, label_prediction(labels, names), f"Frame {done}")
    text = f"{done} frames in {seconds:.1f} s."
    yield Step(progress_bar(1, 1, text), viewer(views), movie, archive)


def _add_mask(masks: zipfile.ZipFile, folder: Path, name: str, labels: np.ndarray) -> None:
    path = folder / "mask.png"
    save_label_map(path, labels)
    masks.write(path, f"masks/{name}.png")
    path.unlink()


def _pace(done: int, count: int | None, seconds: float) -> str:
    rate = done / max(seconds, 1e-6)
    text = f"Frame {done}" + (f" of {count}" if count else "") + f" · {rate:.1f} frames/s"
    if count and count > done:
        text += f" · about {(count - done) / rate:.0f} s left"
    return text
