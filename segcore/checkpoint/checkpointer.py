"""Detectron2's checkpointer, for every format, checked before it copies."""

from __future__ import annotations

import logging
import os
from typing import Any

import detectron2.utils.comm as comm
import torch
from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from .converters import find_converter, known_formats, rules_for
from .files import atomic_path
from .matching import LoadReport, match
from .reading import RawCheckpoint, map_again, read_checkpoint


class Checkpointer(DetectionCheckpointer):
    """Saves and loads a model and the state of its training.

    `load` takes our own `.pth` and `.safetensors`, and whatever format a model
    package has registered (official checkpoints, ImageNet backbones, Hugging Face
    folders and `hf:ORG/NAME`).  The file is checked against the model first; one
    that does not fit raises and leaves the model untouched.  The number of
    classes alone may differ: then only the class head keeps its initial values.
    Every load says what matched, what is missing and what was not used.

    Attributes:
        last_report: the `LoadReport` of the last load, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        take_over: bool = False,
        **checkpointables: Any,
    ) -> None:
        """
        Args:
            save_dir: where `save` writes.
            save_to_disk: whether this process writes; None: the main process does.
            take_over: the model's parameters become the loaded tensors, where device and type are theirs, in
                place of receiving copies: half of the memory. A `.safetensors` or `.pth` then stays mapped: it may be
                replaced, but must not be written to. For models that are not trained: an optimizer would hold
                the parameters from before.
            checkpointables: what else is saved and loaded, by name.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.take_over = take_over
        self.last_report: LoadReport | None = None

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load the model and the checkpointables that the file holds.

        Args:
            path: file, Hugging Face folder, URL or `hf:ORG/NAME[@REVISION]`; empty loads nothing.
            checkpointables: which of them to load; all by default, none with an empty list.

        Returns:
            What the file holds besides (`iteration`, ...).

        Raises:
            FileNotFoundError, OSError: if it is not there or cannot be downloaded.
            ValueError: if it is damaged or of another architecture; nothing is
                loaded then.
        """
        if not path:
            self._say(["no weights given: the model keeps its initial values"])
            return {}
        raw = read_checkpoint(path, mapped=self.take_over)
        names = list(self.checkpointables) if checkpointables is None else checkpointables
        wanted = [name for name in names if name in raw.extra]
        tensors, report = self._prepare(raw)
        if report.class_head_reset and wanted:
            got, expected = report.num_classes
            raise ValueError(
                f"cannot resume from {raw.source}: its class head has {got} outputs, the model's {expected}; "
                "start a new run with MODEL.WEIGHTS set to that file and without --resume"
            )
        self._copy(self._taken_over(tensors, raw) if self.take_over else tensors)
        self.last_report = report
        self._say(report.lines())
        for name in wanted:
            self.checkpointables[name].load_state_dict(raw.extra.pop(name))
        return raw.extra

    def _prepare(self, raw: RawCheckpoint) -> tuple[dict[str, torch.Tensor], LoadReport]:
        """Convert and check; touches nothing."""
        model_state = self.model.state_dict()
        rules = rules_for(model_state)
        converter = find_converter(raw.state, model_state)
        if converter is not None:
            if raw.config is not None:
                converter.check_config(raw.config, self.model)
            state = converter.convert(raw.state, self.model)
            return match(state, model_state, rules, raw.source, converter.name, converter.optional)
        if not any(key in model_state for key in raw.state):
            formats = ", ".join(known_formats(model_state)) or "none registered"
            raise ValueError(
                f"{raw.source} is a checkpoint of another architecture: it shares no tensor with the model "
                f"and is in none of the known formats ({formats}); "
                f"its first keys are {', '.join(list(raw.state)[:3])}"
            )
        return match(raw.state, model_state, rules, raw.source)

    def _taken_over(self, tensors: dict[str, torch.Tensor], raw: RawCheckpoint) -> dict[str, torch.Tensor]:
        """The tensors on the model's device and in its types. Those that lie in a mapped file move to a mapping of
        their own, without what the conversion of others has read."""
        own, again = self.model.state_dict(), map_again(raw)
        origins = {id(value): key for key, value in raw.state.items()}
        taken = {}
        for key, value in tensors.items():
            taken[key] = value.to(own[key].device, own[key].dtype)
            if taken[key] is value:
                taken[key] = again.get(origins.get(id(value)), value)
        return taken

    def _copy(self, tensors: dict[str, torch.Tensor]) -> None:
        # Through load_state_dict, so that a module may react to a load.  Without
        # `_metadata`: names were settled by the keys, and a hook that renames by
        # version would corrupt files that were saved without one.
        result = self.model.load_state_dict(dict(tensors), strict=False, assign=self.take_over)
        assert not result.unexpected_keys, result.unexpected_keys

    def _say(self, lines: list[str]) -> None:
        """Log the lines, or print them where logging is not set up: silence would hide a partial load."""
        logged = self.logger.hasHandlers() and self.logger.isEnabledFor(logging.INFO)
        for line in lines:
            if logged:
                self.logger.info(line)
            elif comm.is_main_process():
                print(line)

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `save_dir/name.pth` with the model, the checkpointables and `kwargs`, whole or not at all."""
        if not self.save_dir:
            return
        basename = f"{name}.pth"
        if os.path.basename(basename) != basename:
            raise ValueError(
                f"checkpoint name {name!r} must not contain a folder; the folder is {self.save_dir}"
            )
        # Gathered before asking who writes: a sharded model's processes do it together.
        data = {"model": self._model_state()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        if not self.save_to_disk:
            return
        path = os.path.join(self.save_dir, basename)
        self.logger.info(f"Saving checkpoint to {path}")
        with atomic_path(path) as temporary:
            torch.save(data, temporary)
        self.tag_last_checkpoint(basename)

    def _model_state(self) -> dict[str, torch.Tensor]:
        return self.model.state_dict()

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the newest checkpoint in `save_dir/last_checkpoint`."""
        with (
            atomic_path(os.path.join(self.save_dir, "last_checkpoint")) as temporary,
            open(temporary, "w", encoding="utf-8") as stream,
        ):
            stream.write(last_filename_basename)
