"""Video object segmentation from first-frame masks (SegGPT sec. 4.3): DAVIS's numbers, submission files.

A clip lies in two folders, frames and palette PNGs of the same stems, as DAVIS and YouTube-VOS have it:

    JPEGImages[/480p]/CLIP/00000.jpg    Annotations[/480p]/CLIP/00000.png    (0 background, 1.. objects)

An object is followed from the first frame that its label is given in: in DAVIS and MOSE the first of the
clip, in YouTube-VOS any.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segcore.data.images import read_image, read_label_png
from seggpt.drawing import save_label_map
from seggpt.frames import Frame
from seggpt.video import VideoSegmenter

from .vos_measures import boundary_accuracy, region_similarity

VOID = 255


class Clip(NamedTuple):
    """A clip's name, its frames in order, and the label pictures that there are, by the frame's stem.

    `single`: all that is marked is one object (DAVIS-2016), whatever its value.
    """

    name: str
    frames: list[Path]
    labels: dict[str, Path]
    single: bool = False

    def read_labels(self, stem: str) -> np.ndarray:
        """(H, W) int32 of a label picture: 0 background, objects from 1 on; VOID, where it is, is background."""
        values = read_label_png(str(self.labels[stem])).astype(np.int32)
        return (values > 0).astype(np.int32) if self.single else np.where(values == VOID, 0, values)


def find_clips(
    frame_root: str | os.PathLike, label_root: str | os.PathLike, names: Sequence[str] = (), *, single: bool = False
) -> list[Clip]:
    """The clips of two folders, in order of their names.

    Args:
        names: only these; empty: all that have labels.
        single: see `Clip`.

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
        clips.append(Clip(name, frames, labels, single))
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
        first = clip.read_labels(clip.frames[start].stem)
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
        skip_ends: leave out the first frame, which was given, and the last, as DAVIS's tool does. Like that tool
            it takes void (255) for background.

    Raises:
        ValueError: if a frame to be judged has no label picture, or an answer's size is another.
    """
    objects = [int(label) for label in np.unique(clip.read_labels(clip.frames[0].stem)) if label]
    judged = range(1, len(clip.frames) - 1) if skip_ends else range(len(clip.frames))
    values: dict[int, list[tuple[float, float]]] = {label: [] for label in objects}
    for number in judged:
        stem = clip.frames[number].stem
        if stem not in clip.labels:
            raise ValueError(f"frame {stem} of clip {clip.name!r} has no label picture to judge it by")
        truth, answer = clip.read_labels(stem), answers[number]
        if truth.shape != answer.shape:
            raise ValueError(
                f"frame {stem} of clip {clip.name!r}: the answer is {answer.shape}, the truth {truth.shape}"
            )
        for label in objects:
            masks = answer == label, truth == label
            values[label].append((region_similarity(*masks), boundary_accuracy(*masks)))
    return {label: tuple(np.mean(v, 0)) if v else (float("nan"),) * 2 for label, v in values.items()}


def evaluate_clips(
    segmenter: VideoSegmenter, clips: Sequence[Clip], folder: str | os.PathLike | None = None
) -> dict[str, dict[str, float]]:
    """DAVIS's numbers, in percent.

    Args:
        folder: write the answers there too, see `write_submission`.

    Returns:
        {"all": {"J&F", "J", "F": means over all objects of all clips, "objects"}, "CLIP/OBJECT": {"J", "F"}, ...}.
    """
    found = {}
    for clip in clips:
        answers = list(segment_clip(segmenter, clip))
        if folder is not None:
            write_answers(clip, answers, folder)
        for label, (region, outline) in evaluate_clip(answers, clip).items():
            found[f"{clip.name}/{label}"] = {"J": 100 * region, "F": 100 * outline}
    region, outline = (float(np.mean([one[key] for one in found.values()])) for key in ("J", "F"))
    return {"all": {"J&F": (region + outline) / 2, "J": region, "F": outline, "objects": len(found)}, **found}


def write_submission(
    segmenter: VideoSegmenter,
    clips: Sequence[Clip],
    folder: str | os.PathLike,
    *,
    every_label: bool,
    asked: dict[str, set[str]] | None = None,
) -> None:
    """Follow the objects of clips and write the answers; see `write_answers`.

    Args:
        every_label: see `segment_clip`; True for YouTube-VOS.
        asked: clip -> stems of the frames to be written, of those that are followed; None: all.
    """
    for clip in clips:
        write_answers(
            clip,
            segment_clip(segmenter, clip, every_label=every_label),
            folder,
            None if asked is None else asked[clip.name],
        )


def write_answers(
    clip: Clip, answers: Iterable[np.ndarray], folder: str | os.PathLike, asked: set[str] | None = None
) -> None:
    """Palette PNGs folder/CLIP/STEM.png, as the benchmarks lay out their own annotations."""
    target = Path(folder) / clip.name
    target.mkdir(parents=True, exist_ok=True)
    for path, labels in zip(clip.frames, answers):
        if asked is None or path.stem in asked:
            save_label_map(target / f"{path.stem}.png", labels)


def _first_appearances(clip: Clip, every_label: bool) -> list[tuple[int, list[int]]]:
    """(frame number, labels that it is the first to show), in order."""
    seen: set[int] = set()
    groups = []
    for number, path in enumerate(clip.frames):
        if path.stem not in clip.labels:
            continue
        found = {int(label) for label in np.unique(clip.read_labels(path.stem))} - {0}
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
