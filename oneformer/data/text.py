"""The texts that OneFormer's queries are compared with in training (arXiv:2211.06220, sec. 3.2).

An image's list has one entry per object, "a photo with a {class}", and is filled
up with a sentence that names the task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..tasks import INSTANCE, PANOPTIC, SEMANTIC

OBJECT_TEXT = "a photo with a {}"
PADDING_TEXT = {
    SEMANTIC: "a semantic photo",
    INSTANCE: "an instance photo",
    PANOPTIC: "a panoptic photo",
}


def text_list(classes: Iterable[int], class_names: Sequence[str], task: str, length: int) -> list[str]:
    """The texts of one image.

    Args:
        classes: class index of each target.
        class_names: name of each class.
        task: "semantic", "instance" or "panoptic".
        length: how many texts to return; what does not fit is cut off.

    Returns:
        `length` strings: the objects in the order of their class indices, then padding.
    """
    objects = [OBJECT_TEXT.format(class_names[c]) for c in sorted(classes)][:length]
    return objects + [PADDING_TEXT[task]] * (length - len(objects))


def unique_texts(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The distinct texts in the order of first appearance, and for each text its place among them.

    Most of a list is the same padding sentence; encoding each text once gives the same features.
    """
    place: dict[str, int] = {}
    index = [place.setdefault(text, len(place)) for text in texts]
    return list(place), index
