"""The tab SegGPT: paint on examples, find the same in other pictures or in a clip."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import numpy as np

from seggpt.drawing import save_label_map
from seggpt.labels import read_mask as read_labels
from seggpt.labels import unify
from seggpt.prompts import Prompts
from seggpt.video import VideoSegmenter

from .clips import follow, label_prediction
from .guard import guarded
from .limits import Limits
from .models import NO_SEGGPT, Models
from .painter import COLLECT, MAX_LABELS, painter
from .running import Run, Running
from .uploads import (
    CLIP_EXTENSIONS,
    PICTURE_EXTENSIONS,
    UploadedClip,
    is_clip,
    new_folder,
    read_mask,
    read_painted,
    read_picture,
    safe_name,
    shown_name,
)
from .viewer import empty, label_views, progress_bar, viewer

KIND_CHOICES = [("These very objects", "instance"), ("Things of their kind", "semantic")]
CLIP_MEMORY = 3  # last frames that join the examples: more cost time for each frame
_EXAMPLES = empty("Drop an example picture", "Then paint on it what SegGPT shall find elsewhere.")
_TARGETS = empty("Results appear here", "Examples on the left, then the pictures or the clip to search.")

Shown = tuple[object, object, object, object]  # status, viewer, video, files


class SegGPTHandlers:
    """What the tab's buttons do."""

    def __init__(self, models: Models, limits: Limits, results: Path) -> None:
        self.models, self.limits, self.results = models, limits, results
        self.running = Running()

    def show(self, examples: list[str] | None, masks: list[str] | None) -> str:
        """The painter with the examples, and with the masks that were uploaded for them."""
        if not examples:
            return _EXAMPLES
        images = self._examples(examples)
        return painter(images, self._uploaded_masks(images, masks) if masks else None)

    def segment(
        self,
        painted: str,
        examples: list[str] | None,
        targets: list[str] | None,
        kind: str,
        request: gr.Request | None = None,
    ) -> Iterator[Shown]:
        """Steps of (status, viewer, video, files)."""
        with self.running.run(request) as run:
            yield from self._segment(painted, examples, targets, kind, run)

    def _segment(
        self, painted: str, examples: list[str] | None, targets: list[str] | None, kind: str, run: Run
    ) -> Iterator[Shown]:
        predictor = self.models.need_seggpt()
        if not targets:
            raise ValueError("Drop the pictures to search, or a clip.")
        images = self._examples(examples)
        masks, names = read_painted(painted, [image.shape[:2] for image in images])
        for number, mask in enumerate(masks, 1):
            if not mask.any():
                raise ValueError(f"Nothing is painted on example {number}: paint what SegGPT shall find.")
        yield progress_bar(0, None, "Looking at the examples"), gr.skip(), *nothing_yet()
        prompts = predictor.encode_prompts(images, masks, type=kind)
        if any(is_clip(target) for target in targets):
            yield from self._clip(prompts, names, targets, run)
        else:
            yield from self._pictures(prompts, names, targets, run)

    def _pictures(self, prompts: Prompts, names: dict[int, str], targets: list[str], run: Run) -> Iterator[Shown]:
        if len(targets) > self.limits.pictures:
            raise ValueError(f"{len(targets)} pictures; the page takes up to {self.limits.pictures} at once.")
        folder, views, start = new_folder(self.results, self.limits), [], time.perf_counter()
        archive = folder / "seggpt_masks.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as stream:
            for number, target in enumerate(targets, 1):
                run.check()
                image = read_picture(target, self.limits)
                labels = self.models.need_seggpt()(image, prompts).label_map
                views += label_views(image, label_prediction(labels, names), shown_name(target))
                path = folder / "mask.png"
                save_label_map(path, labels)
                stream.write(path, f"{number}_{safe_name(target)}.png")
                path.unlink()
                text = f"{number} of {len(targets)} pictures · {time.perf_counter() - start:.1f} s"
                yield progress_bar(number, len(targets), text), viewer(views), gr.skip(), gr.skip()
            stream.writestr("labels.json", json.dumps({str(n): name for n, name in names.items()}, indent=1))
        yield gr.skip(), gr.skip(), gr.skip(), gr.File(value=[str(archive)], visible=True)

    def _clip(self, prompts: Prompts, names: dict[int, str], targets: list[str], run: Run) -> Iterator[Shown]:
        if len(targets) > 1:
            raise ValueError("Give one clip alone, or pictures alone.")
        clip = UploadedClip(targets[0], self.limits)
        segmenter = VideoSegmenter(self.models.need_seggpt(), memory=CLIP_MEMORY)
        results, folder = segmenter.from_prompts(clip, prompts), new_folder(self.results, self.limits)
        yield from clip_steps(follow(results, clip, names, folder, safe_name(targets[0]), run))

    def _examples(self, paths: list[str] | None) -> list[np.ndarray]:
        if not paths:
            raise ValueError("Drop an example picture first, and paint on it.")
        if len(paths) > self.limits.pictures:
            raise ValueError(f"{len(paths)} examples; the page takes up to {self.limits.pictures}.")
        return [read_picture(path, self.limits) for path in paths]

    def _uploaded_masks(self, images: list[np.ndarray], paths: list[str]) -> list[np.ndarray]:
        """Label maps 1..n of mask files, in the order of the examples, at the examples' working sizes."""
        if len(paths) != len(images):
            raise ValueError(f"{len(images)} examples but {len(paths)} masks; give one mask per example, in order.")
        read = [read_mask(path, self.limits) for path in paths]
        read = [read_labels(mask, mask.shape[:2], "semantic", shown_name(p)) for mask, p in zip(read, paths)]
        maps, labels, _ = unify(read)
        if len(labels) > MAX_LABELS:
            raise ValueError(f"The masks have {len(labels)} labels; the page takes up to {MAX_LABELS}.")
        return [
            _resized(np.where(m > 0, np.searchsorted(labels, m) + 1, 0), image.shape[:2], shown_name(path))
            for m, image, path in zip(maps, images, paths)
        ]


def clip_steps(steps: Iterator) -> Iterator[Shown]:
    """The steps of a clip as the outputs of a tab."""
    for step in steps:
        picture = gr.skip() if step.picture is None else step.picture
        video = gr.Video(value=str(step.video), visible=True) if step.video else gr.skip()
        files = gr.File(value=[str(step.archive)], visible=True) if step.archive else gr.skip()
        yield step.status, picture, video, files


def nothing_yet() -> tuple[gr.Video, gr.File]:
    """Video and files of an earlier run, taken away."""
    return gr.Video(value=None, visible=False), gr.File(value=None, visible=False)


def _resized(labels: np.ndarray, size: tuple[int, int], name: str) -> np.ndarray:
    """A label map at the size of its reduced picture. Raises ValueError where the shape is another."""
    height, width = labels.shape
    if abs(height * size[1] - width * size[0]) > max(height, width, *size):
        raise ValueError(f"{name} is {width} × {height} pixels, another shape than its example's; is it its mask?")
    rows = (np.arange(size[0]) * height // size[0])[:, None]
    return labels[rows, np.arange(size[1]) * width // size[1]]


def build_tab(models: Models, limits: Limits, results: Path) -> None:
    """The controls, and what they call."""
    handlers = SegGPTHandlers(models, limits, results)
    if models.seggpt is None:
        gr.HTML(f'<div class="notice">{NO_SEGGPT}</div>')
    painted = gr.Textbox(visible=False)
    with gr.Row():
        with gr.Column(scale=1, min_width=420):
            gr.HTML('<h3 class="step"><i>1</i>Show what you mean</h3>')
            with gr.Row():
                examples = gr.File(
                    label="Example pictures", file_count="multiple", file_types=list(PICTURE_EXTENSIONS),
                    height=130, elem_id="sg-examples",
                )
                masks = gr.File(
                    label="Masks, if you have them", file_count="multiple", file_types=[".png", ".bmp", ".tif"],
                    height=130, elem_id="sg-masks",
                )
            canvas = gr.HTML(_EXAMPLES, elem_id="sg-painter")
        with gr.Column(scale=1, min_width=420):
            gr.HTML('<h3 class="step"><i>2</i>Find it elsewhere</h3>')
            targets = gr.File(
                label="Pictures to search, or one clip", file_count="multiple",
                file_types=[*PICTURE_EXTENSIONS, *CLIP_EXTENSIONS], height=130, elem_id="sg-targets",
            )
            with gr.Row(equal_height=True):
                kind = gr.Radio(KIND_CHOICES, value="semantic", show_label=False, container=False)
                run = gr.Button("Find", variant="primary", interactive=models.seggpt is not None, elem_id="sg-run",
                                min_width=90)
                stop = gr.Button("Cancel", elem_id="sg-stop", min_width=80, scale=0)
            status = gr.HTML(elem_id="sg-status")
            video = gr.Video(label="Clip", visible=False, elem_id="sg-video")
            shown = gr.HTML(_TARGETS, elem_id="sg-view")
            files = gr.File(
                label="Masks", file_count="multiple", interactive=False, visible=False, elem_id="sg-files"
            )
    for upload in (examples, masks):
        upload.change(guarded(handlers.show), [examples, masks], canvas, api_name=False, show_progress="hidden")
    event = run.click(
        guarded(handlers.segment), [painted, examples, targets, kind], [status, shown, video, files], js=COLLECT,
        concurrency_id="models", concurrency_limit=1, show_progress="hidden", api_name="seggpt",
    )
    # Through the queue, so that it comes after whatever the cancelled run still had to say.
    stop.click(handlers.running.cancelled, None, status, cancels=[event], api_name=False, show_progress="hidden")
