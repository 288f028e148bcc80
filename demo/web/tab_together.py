"""The tab Together: OneFormer finds objects in the first frame of a clip, SegGPT follows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np

from oneformer.tasks import INSTANCE, PANOPTIC
from segcore.formats import Shape, shapes_of
from seggpt.video import VideoSegmenter

from .clips import follow
from .guard import guarded
from .limits import Limits
from .models import NO_SEGGPT, Models
from .painter import MAX_LABELS
from .recent import Recent
from .running import Run, Running
from .tab_seggpt import CLIP_MEMORY, Shown, clip_steps, nothing_yet
from .uploads import CLIP_EXTENSIONS, UploadedClip, first_frame, new_folder, safe_name
from .viewer import View, empty, prediction_views, progress_bar, viewer

WHAT_CHOICES = [("Objects", INSTANCE), ("Everything", PANOPTIC)]
_CHOSEN = 4  # of what was found, at first
_EMPTY = empty("Drop a clip", "OneFormer finds what is in its first frame; SegGPT follows what you choose.")


@dataclass(frozen=True)
class Candidates:
    """What was found in a first frame, best first."""

    shapes: list[Shape]

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(shape.mask.nbytes for shape in self.shapes)

    def choices(self) -> list[tuple[str, int]]:
        """(what a visitor reads, number from 1)."""
        return [
            (f"{i} · {s.name}" + ("" if s.score is None else f" {s.score:.0%}"), i)
            for i, s in enumerate(self.shapes, 1)
        ]


class TogetherHandlers:
    """What the tab's buttons do."""

    def __init__(self, models: Models, limits: Limits, results: Path) -> None:
        self.models, self.limits, self.results = models, limits, results
        self.recent = Recent(limits.kept_bytes // 4)
        self.running = Running()

    def show(self, path: str | None) -> tuple:
        """The first frame, as soon as a clip is dropped; what an earlier clip had is gone."""
        html = viewer([View("First frame", first_frame(path, self.limits))]) if path else _EMPTY
        return html, None, gr.CheckboxGroup(choices=[], value=[], visible=False)

    def find(
        self, path: str | None, task: str, confidence: float, progress: gr.Progress = gr.Progress()  # noqa: B008
    ) -> tuple:
        """(viewer, key of what was found, the choice)."""
        progress(0.05, desc="Reading the first frame")
        image = first_frame(path, self.limits)
        progress(0.2, desc="OneFormer looks for objects")
        prediction = self.models.oneformer(image, task, confidence=float(confidence))
        shapes = shapes_of(prediction, task)
        if task == PANOPTIC:
            shapes.sort(key=lambda shape: -int(shape.mask.sum()))
        if not shapes:
            raise ValueError(
                f"OneFormer finds nothing above a confidence of {confidence:.0%} in the first frame; lower it, or "
                "ask for everything."
            )
        found = Candidates(shapes[: 3 * MAX_LABELS])
        choice = gr.CheckboxGroup(
            choices=found.choices(), value=list(range(1, min(_CHOSEN, len(found.shapes)) + 1)), visible=True
        )
        return viewer(prediction_views(image, prediction)), self.recent.put(found, found.size), choice

    def follow(
        self, path: str | None, key: str | None, chosen: list[int], request: gr.Request | None = None
    ) -> Iterator[Shown]:
        """Steps of (status, viewer, video, files)."""
        with self.running.run(request) as run:
            yield from self._follow(path, key, chosen, run)

    def _follow(self, path: str | None, key: str | None, chosen: list[int], run: Run) -> Iterator[Shown]:
        predictor = self.models.need_seggpt()
        if key is None:
            raise ValueError("Find the objects of the first frame before they can be followed.")
        shapes = self.recent.get(key).shapes
        numbers = [int(n) for n in chosen if 1 <= int(n) <= len(shapes)]
        if not 1 <= len(numbers) <= MAX_LABELS:
            raise ValueError(f"Choose 1 to {MAX_LABELS} of what was found; {len(numbers)} are chosen.")
        yield progress_bar(0, None, "Reading the clip"), gr.skip(), *nothing_yet()
        clip = UploadedClip(path, self.limits)
        mask, names = _first_mask([shapes[n - 1] for n in numbers])
        results = VideoSegmenter(predictor, memory=CLIP_MEMORY).from_first_frame(clip, mask, "instance")
        yield from clip_steps(follow(results, clip, names, new_folder(self.results, self.limits), safe_name(path), run))


def _first_mask(shapes: list[Shape]) -> tuple[np.ndarray, dict[int, str]]:
    """The label map 1..n of some shapes, the first on top, and the labels' names."""
    mask = np.zeros(shapes[0].mask.shape, np.int32)
    for number in range(len(shapes), 0, -1):
        mask[shapes[number - 1].mask] = number
    return mask, {i: f"{s.name} {i}" for i, s in enumerate(shapes, 1)}


def build_tab(models: Models, limits: Limits, results: Path) -> None:
    """The controls, and what they call."""
    handlers = TogetherHandlers(models, limits, results)
    ready = models.seggpt is not None
    if not ready:
        gr.HTML(f'<div class="notice">{NO_SEGGPT}</div>')
    key = gr.State(None)
    with gr.Row():
        with gr.Column(scale=1, min_width=300, elem_classes="side"):
            file = gr.File(label="Clip", file_types=list(CLIP_EXTENSIONS), height=130, elem_id="to-file")
            what = gr.Radio(WHAT_CHOICES, value=INSTANCE, label="OneFormer looks for")
            confidence = gr.Slider(0.05, 0.95, value=0.5, step=0.05, label="Confidence")
            find = gr.Button("Find", variant="primary", elem_id="to-find")
            chosen = gr.CheckboxGroup([], label="Follow", visible=False, elem_id="to-chosen")
            with gr.Row():
                run = gr.Button("Follow", variant="primary", interactive=ready, elem_id="to-run")
                stop = gr.Button("Cancel", elem_id="to-stop", min_width=80, scale=0)
            files = gr.File(
                label="Masks", file_count="multiple", interactive=False, visible=False, elem_id="to-files"
            )
        with gr.Column(scale=3, min_width=420):
            status = gr.HTML(elem_id="to-status")
            video = gr.Video(label="Clip", visible=False, elem_id="to-video")
            shown = gr.HTML(_EMPTY, elem_id="to-view")
    file.change(guarded(handlers.show), file, [shown, key, chosen], api_name=False, show_progress="hidden")
    finding = find.click(
        guarded(handlers.find), [file, what, confidence], [shown, key, chosen],
        concurrency_id="models", concurrency_limit=1, api_name="find",
    )
    following = run.click(
        guarded(handlers.follow), [file, key, chosen], [status, shown, video, files],
        concurrency_id="models", concurrency_limit=1, show_progress="hidden", api_name="follow",
    )
    # Through the queue, so that it comes after whatever the cancelled run still had to say.
    stop.click(
        handlers.running.cancelled, None, status, cancels=[finding, following], api_name=False, show_progress="hidden"
    )
