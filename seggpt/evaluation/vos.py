"""Video object segmentation from first-frame masks (SegGPT sec. 4.3): DAVIS's numbers, submission files.

A clip lies in two folders, frames and palette PNGs of the same stems, as DAVIS and YouTube-VOS have it:

    JPEGImages[/480p]/CLIP/00000.jpg    Annotations[/480p]/CLIP/00000.png    (0 background, 1.. objects)

An object is followed from the first frame that its label is given in: in DAVIS and MOSE the first of the
clip, in YouTube-VOS any.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcore.data.images import read_image, read_label_png
from seggpt.drawing import save_label_map
from seggpt.frames import Frame
from seggpt.predictor import SegGPTPredictor
from seggpt.video import VideoSegmenter

from .vos_measures import boundary_accuracy, region_similarity

VOID = 255


class Clip(NamedTuple):
    """A clip's name, its frames in order, and the label pictures that there are, by the frame's stem."""

    name: str
    frames: list[Path]
    labels: dict[str, Path]


def find_clips(frame_root: str | os.PathLike, label_root: str | os.PathLike, names: Sequence[str] = ()) -> list[Clip]:
    """The clips of two folders, in order of their names.

    Args:
        names: only these; empty: all that have labels.

    Raises:
        FileNotFoundError: a folder, or a clip's frames or labels, are not there.
    """
    frame_root, label_root = Path(frame_root), Path(label_root)
    for root in (frame_root, label_root):
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}; it should hold a folder per clip")
    clips = []
    for name in names or sorted(p.name for p in label_root.iterdir() if p.is_dir()):
        frames = sorted(p for p in (frame_root / name).glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
        labels = {p.stem: p for p in sorted((label_root / name).glob("*.png"))}
        if not frames or not labels:
            raise FileNotFoundError(f"clip {name!r} has {len(frames)} frames and {len(labels)} label pictures")
        clips.append(Clip(name, frames, labels))
    return clips


def segment_clip(segmenter: VideoSegmenter, clip: Clip, *, every_label: bool = False) -> Iterator[np.ndarray]:
    """Follow the objects of a clip; one (H, W) int32 label map per frame.

    Objects that first appear in the same frame are followed together, each with a pass of its own where the
    segmenter is `separate`; those of different frames apart. Where several claim a pixel the surest has it.

    Args:
        every_label: an object may first appear in any frame that has a label picture (YouTube-VOS); otherwise
            only the first picture tells objects.

    Raises:
        ValueError: if no label picture shows an object.
    """
    groups = _first_appearances(clip, every_label)
    if not groups:
        raise ValueError(f"the label pictures of clip {clip.name!r} show no object")
    runs = []
    for start, labels in groups:
        first = read_label_png(clip.labels[clip.frames[start].stem]).astype(np.int32)
        first[~np.isin(first, labels)] = 0
        runs.append((start, segmenter.from_first_frame(_frames(clip, start), first, type="instance")))
    for number in range(len(clip.frames)):
        answers = [next(run).prediction for start, run in runs if start <= number]
        yield _merge(answers, segmenter.options["threshold"], clip.frames[number])


def _frames(clip: Clip, start: int) -> Iterator[Frame]:
    for number, path in enumerate(clip.frames[start:]):
        yield Frame(number, path.stem, read_image(str(path), "RGB"))


def evaluate_clip(
    answers: Sequence[np.ndarray], clip: Clip, *, skip_ends: bool = True
) -> dict[int, tuple[float, float]]:
    """Mean J and F of each object over the frames.

    Args:
        answers: a label map per frame of the clip.
        skip_ends: leave out the first frame, which was given, and the last, as DAVIS's tool does.

    Raises:
        ValueError: if a frame to be judged has no label picture, or an answer's size is another.
    """
    first = read_label_png(clip.labels[clip.frames[0].stem])
    objects = [int(label) for label in np.unique(first) if label not in (0, VOID)]
    judged = range(1, len(clip.frames) - 1) if skip_ends else range(len(clip.frames))
    values: dict[int, list[tuple[float, float]]] = {label: [] for label in objects}
    for number in judged:
        stem = clip.frames[number].stem
        if stem not in clip.labels:
            raise ValueError(f"frame {stem} of clip {clip.name!r} has no label picture to judge it by")
        truth, answer = read_label_png(clip.labels[stem]), answers[number]
        if truth.shape != answer.shape:
            raise ValueError(
                f"frame {stem} of clip {clip.name!r}: the answer is {answer.shape}, the truth {truth.shape}"
            )
        valid = truth != VOID
        for label in objects:
            masks = (answer == label) & valid, (truth == label) & valid
            values[label].append((region_similarity(*masks), boundary_accuracy(*masks)))
    return {label: tuple(np.mean(v, 0)) if v else (float("nan"),) * 2 for label, v in values.items()}


def evaluate_clips(
    predictor: SegGPTPredictor, clips: Sequence[Clip], *, memory: int = 7, separate: bool = True
) -> dict[str, float]:
    """DAVIS's numbers, in percent: the means of J and F over all objects of all clips, and their mean.

    Args:
        memory: last frames that join the first; with it the paper's 8 examples.
        separate: a pass per object, and the strongest wins (the paper does not say how it follows several).
    """
    segmenter = VideoSegmenter(predictor, memory=memory, separate=separate)
    found = []
    for clip in clips:
        found += evaluate_clip(list(segment_clip(segmenter, clip)), clip).values()
    region, outline = 100 * np.mean(found, 0)
    return {"J&F": (region + outline) / 2, "J": region, "F": outline, "objects": len(found)}


def write_submission(
    segmenter: VideoSegmenter, clips: Sequence[Clip], folder: str | os.PathLike, *, every_label: bool
) -> None:
    """Palette PNGs under Annotations/CLIP/, as the servers of YouTube-VOS and MOSE take them, one per frame.

    Args:
        every_label: see `segment_clip`; True for YouTube-VOS.
    """
    for clip in clips:
        target = Path(folder) / "Annotations" / clip.name
        target.mkdir(parents=True, exist_ok=True)
        for path, labels in zip(clip.frames, segment_clip(segmenter, clip, every_label=every_label)):
            save_label_map(target / f"{path.stem}.png", labels)


def _first_appearances(clip: Clip, every_label: bool) -> list[tuple[int, list[int]]]:
    """(frame number, labels that it is the first to show), in order."""
    seen: set[int] = set()
    groups = []
    for number, path in enumerate(clip.frames):
        if path.stem not in clip.labels:
            continue
        found = {int(label) for label in np.unique(read_label_png(clip.labels[path.stem]))} - {0, VOID}
        if found - seen:
            groups.append((number, sorted(found - seen)))
        seen |= found
        if not every_label:
            break
    return groups


def _merge(answers: Sequence, threshold: float, path: Path) -> np.ndarray:
    if not answers:  # before the first object appears
        return np.zeros(read_image(str(path), "RGB").shape[:2], np.int32)
    if len(answers) == 1:
        return answers[0].label_map
    scores = {label: score for answer in answers for label, score in answer.scores.items()}
    stacked = np.stack(list(scores.values()))
    best = stacked.argmax(0)
    return np.where(stacked.max(0) > threshold, np.array(list(scores))[best], 0).astype(np.int32)
