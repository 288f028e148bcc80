"""Instances as pictures: a mask file per object, or one picture per image that numbers its objects."""

from __future__ import annotations

import glob
import logging
import os
from dataclasses import dataclass

from .image_folder import list_images, with_sizes
from .panoptic_folder import report

logger = logging.getLogger(__name__)

MASK_VALUES = ("binary", "ids")


@dataclass(frozen=True)
class InstanceMasks:
    """Where one split lies.

    Attributes:
        image_root, image_suffix: as for `SemanticFolder`.
        mask_root: folder of the masks.
        pattern: glob below `mask_root` for the files of one image and class; "{stem}" stands for the image's
            path below `image_root` without suffix and ending, "{class}" for the name of a class.
        values: "binary", all that is not zero is one object; "ids", each value but zero is one.
        classes: the names, by class index.
    """

    image_root: str
    mask_root: str
    pattern: str
    values: str
    classes: tuple[str, ...]
    image_suffix: str = ""

    def paths(self) -> dict[str, str]:
        """The metadata fields."""
        return {"image_root": self.image_root, "mask_root": self.mask_root}

    def load(self, metadata, problems: list[str] | None = None) -> list[dict]:
        """A dict per image: file_name, image_id (its stem), height, width, mask_files [(path, class index)]
        and mask_values. An image without a mask shows no object, unless masks are to number them: then its
        picture is missing.

        Raises:
            FileNotFoundError, ValueError: a folder or picture is not there, or no image has a mask; those of
                single images go to `problems` where it is given.
        """
        if not os.path.isdir(self.mask_root):
            raise FileNotFoundError(f"the folder {self.mask_root} does not exist")
        images = list_images(self.image_root, self.image_suffix)
        records = []
        for stem, path in images.items():
            files = self._masks(stem)
            if self.values == "ids" and not files:
                wanted = os.path.join(self.mask_root, self.pattern.replace("{stem}", stem))
                report(FileNotFoundError(f"image {path} has no label: {wanted} does not exist"), problems)
                continue
            records.append({"file_name": path, "image_id": stem, "mask_files": files, "mask_values": self.values})
        if not any(record["mask_files"] for record in records):
            raise FileNotFoundError(
                f"no image of {self.image_root} has a mask under {self.mask_root} that fits the pattern "
                f"{self.pattern!r}"
            )
        records = with_sizes(records, problems)
        logger.info("%d images from %s", len(records), self.image_root)
        return records

    def _masks(self, stem: str) -> list[tuple[str, int]]:
        files = []
        for index, name in enumerate(self.classes):
            pattern = self.pattern.replace("{stem}", glob.escape(stem)).replace("{class}", glob.escape(name))
            found = sorted(glob.glob(os.path.join(glob.escape(self.mask_root), pattern)))
            files += [(path, index) for path in found]
        return files
