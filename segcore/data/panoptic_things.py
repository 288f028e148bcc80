"""The things of a COCO panoptic folder alone, as an instance data set."""

from __future__ import annotations

from dataclasses import dataclass

from .metadata import class_index_of
from .panoptic_folder import PanopticFolder, load_panoptic_folder, read_panoptic_json

NO_CLASS = -1  # class index of the segments that the data set does not have


@dataclass(frozen=True)
class PanopticThings:
    """Where one split lies."""

    folder: PanopticFolder

    def paths(self) -> dict[str, str]:
        """The metadata fields: those of the panoptic folder."""
        return self.folder.paths()

    def load(self, metadata, problems: list[str] | None = None) -> list[dict]:
        """As a panoptic folder's; segments of categories that the metadata lacks have class -1, no thing."""
        categories = read_panoptic_json(self.folder.panoptic_json).get("categories", [])
        index = class_index_of(metadata)
        every = {**{category["id"]: NO_CLASS for category in categories}, **index}
        return load_panoptic_folder(self.folder, every, set(index.values()), problems)
