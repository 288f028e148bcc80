"""A folder of images and one of label PNGs, an integer per pixel."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from .image_folder import list_images, pair, with_sizes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SemanticFolder:
    """Where one split lies.

    Attributes:
        image_root, label_root: searched with their subfolders; an image and its label have the same
            path below them, up to the suffixes and the ending.
        image_suffix, label_suffix: what the names have between the common part and the ending.
        gt_dir: Cityscapes' own annotation folder, for its own evaluators.
    """

    image_root: str
    label_root: str
    image_suffix: str = ""
    label_suffix: str = ""
    gt_dir: str | None = None

    def paths(self) -> dict[str, str]:
        """The metadata fields: Detectron2's names."""
        own = {} if self.gt_dir is None else {"gt_dir": self.gt_dir}
        return {"image_root": self.image_root, "sem_seg_root": self.label_root, **own}

    def load(self, metadata, problems: list[str] | None = None) -> list[dict]:
        """A dict per image: file_name, image_id (its stem), height, width, sem_seg_file_name, and the
        label tables of the metadata.

        Raises:
            FileNotFoundError, ValueError: a folder or a label is not there, an image is damaged; those of
                single images go to `problems` where it is given.
        """
        images = list_images(self.image_root, self.image_suffix)
        labels = list_images(self.label_root, self.label_suffix)
        tables = {"label_classes": metadata.label_classes, "ignored_labels": metadata.ignored_labels}
        records = [
            {"file_name": images[stem], "image_id": stem, "sem_seg_file_name": labels[stem], **tables}
            for stem in pair(images, labels, self.label_root, problems)
        ]
        records = with_sizes(records, problems)
        logger.info("%d images from %s", len(records), self.image_root)
        return records
