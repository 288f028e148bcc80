"""The tab OneFormer: one picture, three tasks."""

from __future__ import annotations

import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import numpy as np

from oneformer.tasks import ALL, INSTANCE, PANOPTIC, SEMANTIC
from segcore.formats import FORMATS
from segcore.formats.cityscapes import known_classes
from segcore.formats.shapes import tasks_of
from segcore.predictions import Prediction
from segcore.results import ResultWriter, write_picture
from segcore.visualization import with_legend

from .guard import guarded
from .limits import Limits
from .models import Models
from .recent import Recent
from .uploads import PICTURE_EXTENSIONS, new_folder, read_picture, safe_name
from .viewer import View, empty, prediction_views, viewer

TASK_CHOICES = [("All three", ALL), ("Panoptic", PANOPTIC), ("Instance", INSTANCE), ("Semantic", SEMANTIC)]
_COCO, _PICTURES = "coco", "pictures"
_LABELS = {"geojson": "GeoJSON", "svg": "SVG", "labelme": "labelme", "cvat": "CVAT", "cityscapes": "Cityscapes"}
_EMPTY = empty("Drop a picture", "One model finds segments, objects and classes; point at them for their names.")


@dataclass(frozen=True)
class Found:
    """A result that may be wanted as files."""

    name: str
    image: np.ndarray
    prediction: Prediction

    @property
    def size(self) -> int:
        """Bytes, roughly."""
        masks = 0 if self.prediction.instance is None else self.prediction.instance.masks.nbytes
        return self.image.nbytes + masks + 5 * self.image.shape[0] * self.image.shape[1]


class OneFormerHandlers:
    """What the tab's buttons do."""

    def __init__(self, models: Models, limits: Limits, results: Path) -> None:
        self.models, self.limits, self.results = models, limits, results
        self.recent = Recent(limits.kept_bytes)

    def show(self, path: str | None) -> tuple[str, str, None]:
        """The picture as it was understood, as soon as it is dropped; the last result is gone."""
        html = viewer([View("Photograph", read_picture(path, self.limits))]) if path else _EMPTY
        return html, "", None

    def segment(
        self, path: str | None, task: str, confidence: float, progress: gr.Progress = gr.Progress()  # noqa: B008
    ) -> tuple[str, str, str]:
        """(viewer, line about the run, key of the result)."""
        progress(0.05, desc="Reading the picture")
        image = read_picture(path, self.limits)
        progress(0.15, desc="Segmenting")
        start = time.perf_counter()
        prediction = self.models.oneformer(image, task, confidence=float(confidence))
        seconds = time.perf_counter() - start
        progress(0.8, desc="Drawing")
        found = Found(safe_name(path), image, prediction)
        height, width = prediction.size
        line = f"{width} × {height} pixels, {seconds:.2f} s on {self.models.oneformer.device}"
        html = viewer(prediction_views(image, prediction))
        return html, f'<div class="sv-line">{line}</div>', self.recent.put(found, found.size)

    def save(self, key: str | None, wanted: list[str]) -> gr.File:
        """The files of the last result: pictures, and an archive of the data."""
        found = self.recent.get(key)
        if not wanted:
            raise ValueError("Choose at least one kind of file.")
        folder = new_folder(self.results, self.limits)
        files = []
        if _PICTURES in wanted:
            for task in tasks_of(found.prediction):
                files.append(folder / f"{found.name}_{task}.png")
                write_picture(files[-1], with_legend(found.image, found.prediction, task))
        data = [word for word in wanted if word != _PICTURES]
        if data:
            files.append(self._archive(folder, found, data))
        return gr.File(value=[str(file) for file in files], visible=True)

    def _archive(self, folder: Path, found: Found, wanted: list[str]) -> Path:
        inside = folder / "data"
        formats = [word for word in wanted if word != _COCO]
        with ResultWriter(inside, found.prediction.classes, formats) as writer:
            writer.add(found.name, f"{found.name}.jpg", found.prediction)
        archive = folder / f"{found.name}_results.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as stream:
            for path in sorted(p for p in inside.rglob("*") if p.is_file()):
                stream.write(path, path.relative_to(inside))
        return archive


def file_choices(handlers: OneFormerHandlers) -> list[tuple[str, str]]:
    """(shown, key) of the kinds of files that the model's classes allow."""
    known = set(handlers.models.oneformer.classes.names) <= known_classes()
    formats = [(_LABELS[key], key) for key in FORMATS if key != "cityscapes" or known]
    return [("Pictures (PNG)", _PICTURES), ("COCO and label PNGs", _COCO), *formats]


def build_tab(models: Models, limits: Limits, results: Path) -> None:
    """The controls, and what they call."""
    handlers = OneFormerHandlers(models, limits, results)
    key = gr.State(None)
    with gr.Row():
        with gr.Column(scale=1, min_width=300, elem_classes="side"):
            file = gr.File(
                label="Picture", file_types=list(PICTURE_EXTENSIONS), height=130, elem_id="of-file"
            )
            task = gr.Radio(TASK_CHOICES, value=ALL, label="Task", elem_id="of-task")
            confidence = gr.Slider(
                0.05, 0.95, value=0.5, step=0.05, label="Confidence",
                info="Least score of what is shown; lower shows more.",
            )
            with gr.Row():
                run = gr.Button("Segment", variant="primary", elem_id="of-run")
                stop = gr.Button("Cancel", elem_id="of-stop", min_width=80, scale=0)
            with gr.Accordion("Save the result", open=False):
                kinds = gr.CheckboxGroup(
                    file_choices(handlers), value=[_PICTURES, _COCO], show_label=False, container=False
                )
                save = gr.Button("Make files", elem_id="of-save", size="sm")
                files = gr.File(
                    label="Files", file_count="multiple", interactive=False, visible=False, elem_id="of-files"
                )
        with gr.Column(scale=3, min_width=420):
            shown = gr.HTML(_EMPTY, elem_id="of-view")
            line = gr.HTML(elem_id="of-line")
    file.change(guarded(handlers.show), file, [shown, line, key], api_name=False, show_progress="hidden")
    event = run.click(
        guarded(handlers.segment), [file, task, confidence], [shown, line, key],
        concurrency_id="models", concurrency_limit=1, api_name="oneformer",
    )
    # Through the queue, so that it comes after whatever the cancelled run still had to say.
    stop.click(
        lambda: '<div class="sv-line">Cancelled.</div>', None, line, cancels=[event], api_name=False
    )
    save.click(guarded(handlers.save), [key, kinds], files, api_name="oneformer_files")
