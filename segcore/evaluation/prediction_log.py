"""Predictions written down image by image, so that none has to stay in memory, and put in order at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence

from detectron2.utils import comm


class PredictionLog:
    """One process's predictions, a line of JSON per image.

    Args:
        path: of the file that will hold all of them; this process writes `path`.part-RANK.
    """

    def __init__(self, path: str):
        self.path = path
        self.part = f"{path}.part-{comm.get_rank()}"

    def clear(self) -> None:
        """Begin anew, also after a run that was killed."""
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        with open(self.part, "w", encoding="utf-8"):
            pass

    def add(self, image_id: str, predictions: Sequence[dict]) -> None:
        with open(self.part, "a", encoding="utf-8") as file:
            file.write(json.dumps([image_id, predictions]) + "\n")


def merge_logs(parts: Sequence[str], order: Iterable[str], path: str) -> None:
    """Write all predictions as one JSON list, in the order of the images; an image of several parts counts once.

    Only one image's predictions are in memory at a time. The file appears by a rename; the parts go.

    Raises:
        FileNotFoundError: a part is not here: the processes have no disk in common.
    """
    places: dict[str, tuple[str, int]] = {}
    for part in parts:
        if not os.path.isfile(part):
            raise FileNotFoundError(
                f"the predictions of another process, {part}, are not visible here; saving predictions from "
                "several machines needs an OUTPUT_DIR that they share"
            )
        with open(part, "rb") as file:
            offset = 0
            for line in file:
                places.setdefault(json.loads(line)[0], (part, offset))
                offset += len(line)
    temporary = f"{path}.part"
    with open(temporary, "w", encoding="utf-8") as out:
        out.write("[")
        separator = "\n"
        for image_id in order:
            if image_id not in places:
                continue
            for prediction in _read(*places[image_id]):
                out.write(separator + json.dumps(prediction))
                separator = ",\n"
        out.write("\n]\n")
    os.replace(temporary, path)
    for part in parts:
        os.unlink(part)


def _read(part: str, offset: int) -> list[dict]:
    with open(part, "rb") as file:
        file.seek(offset)
        return json.loads(file.readline())[1]
