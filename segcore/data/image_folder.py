"""Images of a folder and what belongs to them by name: a label picture, or masks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from .images import image_size
from .panoptic_folder import report

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


def list_images(root: str, suffix: str = "") -> dict[str, str]:
    """Stem -> path of the images under `root`, in order of the stems.

    Args:
        root: searched with its subfolders.
        suffix: what the names have before their ending; it is no part of the stem (nor are subfolders left
            out of it: "city/0001" for city/0001_image.png with the suffix "_image").

    Raises:
        FileNotFoundError: no such folder, or no image in it.
        ValueError: two images have one stem.
    """
    found: dict[str, str] = {}
    for path in _files(root):
        stem, ending = os.path.splitext(os.path.relpath(path, root))
        if ending.lower() not in IMAGE_ENDINGS or not stem.endswith(suffix):
            continue
        stem = stem[: len(stem) - len(suffix)].replace(os.sep, "/")
        if stem in found:
            raise ValueError(f"{found[stem]} and {path} have one name; labels could not be told apart")
        found[stem] = path
    if not found:
        named = f" whose names end in {suffix!r}" if suffix else ""
        raise FileNotFoundError(f"{root} holds no images{named} ({', '.join(IMAGE_ENDINGS)})")
    return dict(sorted(found.items()))


def pair(images: dict[str, str], labels: dict[str, str], root: str, problems: list[str] | None) -> list[str]:
    """The stems that have an image and a label; an image without one is a problem, a label alone is not.

    Raises:
        FileNotFoundError: an image has no label and `problems` is None.
    """
    lacking = [stem for stem in images if stem not in labels]
    for stem in lacking:
        report(
            FileNotFoundError(
                f"image {images[stem]} has no label: {os.path.join(root, stem)}.* does not exist "
                f"({len(lacking)} of {len(images)} images have none)"
            ),
            problems,
        )
    return [stem for stem in images if stem in labels]


def with_sizes(records: list[dict], problems: list[str] | None) -> list[dict]:
    """The records with `height` and `width` of their image files; a file that is no picture is a problem."""
    kept = []
    with ThreadPoolExecutor(8) as pool:
        for record, size in zip(records, pool.map(_size_or_error, (r["file_name"] for r in records))):
            if isinstance(size, Exception):
                report(size, problems)
            else:
                kept.append({**record, "height": size[0], "width": size[1]})
    return kept


def _size_or_error(path: str) -> tuple[int, int] | Exception:
    try:
        return image_size(path)
    except (FileNotFoundError, ValueError) as error:
        return error


def _files(root: str) -> Iterator[str]:
    if not os.path.isdir(root):
        raise FileNotFoundError(f"the folder {root} does not exist")
    for folder, subfolders, names in os.walk(root, followlinks=True):
        subfolders.sort()
        yield from (os.path.join(folder, name) for name in sorted(names))
