"""One product of a preparation: a folder of PNGs, a JSON file, or both, complete or not there at all.

While it is made, everything lies in a folder beside it:

    <product>.part/png/NAME.png        finished PNGs
    <product>.part/records/NAME.json   what the JSON will say of an image; written after its PNG
    <product>.part/records/NAME.bad    why an image is left out
    <product>.part/tmp-<process>       the file that is being written

(`in_place` products put each PNG into a folder of the download at once, by a rename too.)

A job is done when its record is there, so a run that was killed goes on where it stopped, and the result
has the same bytes as that of one clean run. At the end the PNG folder and the JSON get their names by a
rename; until then no loader can take half of a data set for the whole.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from segcore.cores import usable_cores

from .parallel import run_jobs

_SPARE = 64 << 20  # bytes that stay free on the disk


@dataclass(frozen=True)
class Options:
    """How to prepare.

    Attributes:
        workers: processes.
        skip_bad: leave images out whose files are wrong, and say which, instead of stopping at the first.
    """

    workers: int = field(default_factory=usable_cores)
    skip_bad: bool = False


@dataclass(frozen=True)
class Job:
    """One image: `name` is unique in its product, `inputs` are what `convert` needs, picklable."""

    name: str
    inputs: Any


@dataclass(frozen=True)
class Converted:
    """What became of one image: `png` an array that Pillow can write, `record` plain values for the JSON.

    `is_void`: its label labels no pixel. It is kept, and counted.
    """

    png: np.ndarray | None = None
    record: Any = None
    is_void: bool = False


@dataclass(frozen=True)
class Product:
    """What is to be made.

    Attributes:
        title: for messages.
        jobs: the images, in the order of the JSON.
        convert: of a job's inputs; raises ValueError or OSError naming the file that is wrong. Picklable.
        png_root: folder of the PNGs, `<job name>.png`.
        json_file: the annotation file.
        assemble: the records in the order of the jobs -> content of the JSON.
        dump: how the content is written; None: compact, in the order of its keys.
        bytes_per_image: how much disk an image is expected to take.
        in_place: `png_root` is a folder of the download; job names may have folders in them.
    """

    title: str
    jobs: Sequence[Job]
    convert: Callable[[Any], Converted]
    png_root: str | None = None
    json_file: str | None = None
    assemble: Callable[[list], dict] | None = None
    dump: dict | None = None
    bytes_per_image: int = 1 << 16
    in_place: bool = False

    @property
    def staging(self) -> str:
        return f"{self.png_root or self.json_file}.part"

    def png_path(self, job: Job) -> str:
        """Where the job's PNG lies until the product is complete."""
        folder = self.png_root if self.in_place else os.path.join(self.staging, "png")
        return os.path.join(folder, f"{job.name}.png")

    def record_path(self, job: Job, suffix: str) -> str:
        return os.path.join(self.staging, "records", f"{os.path.basename(job.name)}.{suffix}")

    def is_done(self, job: Job) -> bool:
        return os.path.isfile(self.png_path(job) if self.in_place else self.record_path(job, "json"))


def make(product: Product, options: Options) -> dict[str, str]:
    """Make a product, or go on making it; does nothing when it is there.

    Returns:
        The images that were left out: job name -> why. Empty unless `options.skip_bad`.

    Raises:
        ValueError: there is nothing to make it from; what is there is of another number of images; the
            disk is too full; a file is wrong (without `skip_bad`), which is named.
    """
    if not product.jobs:
        raise ValueError(f"{product.title}: there are no images to prepare it from")
    if _is_there(product):
        return {}
    os.makedirs(os.path.join(product.staging, "records"), exist_ok=True)
    # What was left out (NAME.bad) is tried again: its files may have been mended.
    left = [job for job in product.jobs if not product.is_done(job)]
    if len(left) < len(product.jobs):
        print(f"{product.title}: going on, {len(product.jobs) - len(left)} images are done")
    if product.png_root and left and not product.in_place:
        os.makedirs(os.path.join(product.staging, "png"), exist_ok=True)
    _check_space(product, len(left))
    # The jobs travel to the workers one by one, not all with each.
    work = functools.partial(_do, dataclasses.replace(product, jobs=(), assemble=None), options.skip_bad)
    run_jobs(work, left, workers=options.workers, title=product.title)
    return _finish(product)


def _do(product: Product, skip_bad: bool, job: Job) -> None:
    """One job: PNG first, record second, so that a record means that all is there."""
    try:
        converted = product.convert(job.inputs)
    except (ValueError, OSError) as error:
        if not skip_bad:
            raise
        write_json(product.record_path(job, "bad"), str(error), product.staging)
        return
    if converted.png is not None:
        temporary = os.path.join(product.staging, f"tmp-{os.getpid()}")
        Image.fromarray(converted.png).save(temporary, format="PNG")
        os.replace(temporary, product.png_path(job))
    content = {"record": converted.record, "is_void": bool(converted.is_void)}
    write_json(product.record_path(job, "json"), content, product.staging)


def _finish(product: Product) -> dict[str, str]:
    records, left_out, void = [], {}, []
    for job in product.jobs:
        if not product.is_done(job):
            left_out[job.name] = _read_json(product.record_path(job, "bad"))
            continue
        path = product.record_path(job, "json")
        # In place, images that were done before this run have no record, and need none.
        content = _read_json(path) if os.path.isfile(path) else {"record": None, "is_void": False}
        records.append(content["record"])
        void += [job.name] if content["is_void"] else []
    if not records:
        first = next(iter(left_out.values()))
        raise ValueError(f"{product.title}: all {len(left_out)} images are wrong; the first: {first}")
    made = os.path.join(product.staging, "png")
    if os.path.isdir(made):
        os.replace(made, product.png_root)
    if product.json_file:
        write_json(product.json_file, product.assemble(records), product.staging, **(product.dump or {}))
    shutil.rmtree(product.staging)
    print(f"{product.title}: {len(records)} images")
    if void:
        print(f"{product.title}: the labels of {len(void)} images label no pixel: {', '.join(void)}")
    if left_out:
        print(f"{product.title}: {len(left_out)} of {len(product.jobs)} images were left out:")
        for name, reason in left_out.items():
            print(f"  {name}: {reason}")
    return left_out


def _is_there(product: Product) -> bool:
    """Whether the finished product is there; ValueError if what is there cannot be it."""
    if product.in_place:
        if not all(product.is_done(job) for job in product.jobs):
            return False
        print(f"{product.title}: is there already")
        return True
    if product.json_file and not os.path.isfile(product.json_file):
        if product.png_root and os.path.isdir(product.png_root) and not os.path.isdir(product.staging):
            raise ValueError(
                f"{product.png_root} is there but {product.json_file} is not, and another program made it: "
                "restore the JSON, or move the folder away to have both made"
            )
        return False
    if product.png_root and not os.path.isdir(product.png_root):
        if product.json_file:
            raise ValueError(
                f"{product.json_file} is there but its PNGs, {product.png_root}, are not: restore them, or "
                "move the JSON away to have both made"
            )
        return False
    if os.path.isdir(product.staging):  # killed while it was cleaning up
        shutil.rmtree(product.staging)
    if product.png_root:
        found = sum(name.endswith(".png") for name in os.listdir(product.png_root))
        if found != len(product.jobs):
            print(
                f"{product.title}: {product.png_root} has {found} PNGs for {len(product.jobs)} images; to have it "
                "made anew, move it away"
            )
            return True
    print(f"{product.title}: is there already")
    return True


def _check_space(product: Product, images: int) -> None:
    needed = images * product.bytes_per_image + _SPARE
    free = shutil.disk_usage(product.staging).free
    if free < needed:
        raise ValueError(
            f"{product.title} needs about {needed >> 20} MiB for {images} images, but the disk of "
            f"{os.path.abspath(product.staging)} has {free >> 20} MiB free; make room or choose another --root"
        )


def write_json(path: str, content: Any, scratch: str, **dump) -> None:
    """Write JSON by a rename from the folder `scratch`, which must be on the same disk."""
    temporary = os.path.join(scratch, f"tmp-{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, **dump)
    os.replace(temporary, path)


def _read_json(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def pair_by_stem(images: str, labels: str, image_suffix: str, label_suffix: str) -> list[tuple[str, str, str]]:
    """(stem, image, label) of two folders of equally named files, sorted.

    Raises:
        FileNotFoundError: a folder is missing.
        ValueError: a label has no image. An image without a label is paired with the path where its label
            should be: the conversion then names it.
    """
    for folder in (images, labels):
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"{folder} does not exist; datasets/README.md shows the expected tree")
    stems = sorted(n[: -len(image_suffix)] for n in os.listdir(images) if n.endswith(image_suffix))
    orphans = {n[: -len(label_suffix)] for n in os.listdir(labels) if n.endswith(label_suffix)} - set(stems)
    if orphans:
        raise ValueError(
            f"{len(orphans)} labels in {labels} have no image in {images}, e.g. {min(orphans)}{label_suffix}; "
            "download the images again, or move the labels away"
        )
    return [(s, os.path.join(images, s + image_suffix), os.path.join(labels, s + label_suffix)) for s in stems]
