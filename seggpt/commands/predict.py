"""Segment pictures and clips after examples, with SegGPT.

  {prog} --weights seggpt_vit_large.pth --prompt-image cat1.jpg cat2.jpg \\
      --prompt-mask cat1.png cat2.png --type semantic --input 'cats/*.jpg'

  # a clip after the mask of its first frame; a folder of frames needs --video
  {prog} --weights W --prompt-mask 00000.png --input clip.mp4

  # OneFormer finds the objects of one picture, SegGPT finds them again in the others
  {prog} --weights W --prompt-from oneformer --prompt-image first.jpg --input 'next/*.jpg'

Without --weights and --config-file the small bundled weights are used, which were trained on drawn scenes alone.

What it writes under --output, for a picture NAME: NAME_labels.png (label map, DAVIS's palette), NAME_painting.png
(the network's colours), NAME_overlay.jpg; for a clip NAME: NAME/masks/*.png and NAME/overlay.mp4; and joint.jpg,
which shows prompts, their masks and results together.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segcore.inputs import Source, find_sources
from seggpt import SegGPTPredictor
from seggpt.colours import THRESHOLD
from seggpt.frames import open_clip
from seggpt.labels import read_mask, unify
from seggpt.pictures import FITS, read_mask_file, read_picture
from seggpt.prompts import ENSEMBLES, TYPES
from seggpt.runner import Report, Shown, segment_clip, segment_pictures, write_joint_picture
from seggpt.video import VideoSegmenter

FORMATS = ("geojson", "svg", "labelme", "cvat")  # of segcore.formats, without those for certain classes only
FINDERS = "seggpt.finders"  # group of entry points
# From (config file, weights, device) to a predictor with OneFormerPredictor's call.
LoadFinder = Callable[[str | None, str | None, str | None], Any]


def parse_args(argv: list[str] | None, prog: str, finders: Sequence[str]) -> argparse.Namespace:
    p = argparse.ArgumentParser(
        prog=prog, description=__doc__.format(prog=prog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--input", nargs="+", required=True, help="pictures, folders, globs, video files, or a camera: 0")
    p.add_argument("--video", action="store_true", help="a folder is a clip, not a heap of pictures")
    p.add_argument("--output", default="output/seggpt", help="folder for the results")
    p.add_argument(
        "--format",
        nargs="*",
        choices=FORMATS,
        help="for pictures: write COCO's panoptic JSON and PNG too, and files for other programs",
    )
    prompt = p.add_argument_group("prompts")
    prompt.add_argument("--prompt-image", nargs="+", default=[], help="example pictures")
    prompt.add_argument(
        "--prompt-mask",
        nargs="+",
        default=[],
        help="a mask file for each: binary, label map or painting. Without --prompt-image: "
        "of the first frame of the clip",
    )
    prompt.add_argument("--prompts", help="a file that --save-prompts wrote, instead of pictures and masks")
    prompt.add_argument("--save-prompts", help="keep the encoded prompts in this .safetensors file")
    prompt.add_argument(
        "--prompt-from",
        choices=list(finders),
        help="let OneFormer's instances be the masks of the prompt pictures or first frame: a label for each "
        "object, or with --type semantic for each class",
    )
    prompt.add_argument("--type", choices=TYPES, default="instance", help="these very objects, or things of their kind")
    prompt.add_argument("--ensemble", choices=ENSEMBLES, default="feature", help="how several prompts act together")
    prompt.add_argument("--separate", action="store_true", help="one pass per label instead of one colour each")
    prompt.add_argument("--fit", choices=FITS, default="squash", help="to the network's canvas")
    model = p.add_argument_group("model")
    model.add_argument("--weights", help="portable .safetensors, released .pth, or Hugging Face folder")
    model.add_argument("--config-file", help="where the weights do not say")
    model.add_argument("--device", help="cpu, cuda, ...")
    model.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    model.add_argument("--batch-size", type=int, default=4)
    model.add_argument("--oneformer-weights", help="for --prompt-from oneformer; default: the bundled ones")
    model.add_argument("--oneformer-config-file")
    model.add_argument("--confidence", type=float, default=0.5, help="least score of OneFormer's instances")
    answer = p.add_argument_group("answers")
    answer.add_argument("--threshold", type=float, default=THRESHOLD, help="of a label's score, 0..1")
    answer.add_argument("--tile", type=int, help="cut large pictures into squares of so many pixels")
    answer.add_argument("--memory", type=int, default=7, help="last frames that join the prompts of a clip")
    answer.add_argument(
        "--on-error", choices=["stop", "skip"], default="stop", help="at a picture or frame that cannot be read"
    )
    return p.parse_args(argv)


def main(
    argv: list[str] | None = None,
    prog: str = "seggpt predict",
    finders: Mapping[str, LoadFinder] | None = None,
) -> None:
    """Run the command.

    Args:
        argv: the command line without the program's name.
        prog: its name.
        finders: what --prompt-from may name; by default the installed entry points of FINDERS.

    Raises:
        ValueError, TypeError, OSError: one sentence that says what is wrong.
    """
    finders = installed_finders() if finders is None else finders
    args = parse_args(argv, prog, list(finders))
    check_arguments(args)
    pictures, clips = sort_inputs(args)
    images = [read_picture(f) for f in args.prompt_image]
    masks = [read_mask_file(f) for f in args.prompt_mask]
    predictor = SegGPTPredictor(
        args.config_file, args.weights, args.device, dtype=getattr(torch, args.dtype), batch_size=args.batch_size
    )
    find = object_finder(args, finders[args.prompt_from]) if args.prompt_from else None
    if find and images:
        masks = find(images)
    prompts = make_prompts(args, predictor, images, masks)
    if args.save_prompts:
        prompts.save(args.save_prompts)
    examples = prompt_examples(args, prompts, images, masks) if prompts else []
    shown = run_pictures(args, predictor, prompts, pictures) if pictures else []
    for source in clips:
        first_mask = None if prompts else masks[0] if masks else lambda pixels: find([pixels])[0]
        results = run_clip(args, predictor, prompts, first_mask, source)
        if not prompts:  # the first frame, with the mask that it was given
            examples, results = examples + results[:1], results[1:]
        shown += results
    joint = Path(args.output) / "joint.jpg"
    write_joint_picture(joint, examples, shown)
    print(f"all together: {joint}")


def run_pictures(args: argparse.Namespace, predictor: SegGPTPredictor, prompts, pictures: list[Source]) -> list[Shown]:
    report = segment_pictures(
        predictor,
        prompts,
        [(p.place, p.name) for p in pictures],
        args.output,
        skip=args.on_error == "skip",
        formats=args.format,
        fit=args.fit,
        tile=args.tile,
        threshold=args.threshold,
    )
    tell(report, "pictures", args.output)
    return report.shown


def run_clip(args: argparse.Namespace, predictor: SegGPTPredictor, prompts, first_mask, source: Source) -> list[Shown]:
    segmenter = VideoSegmenter(
        predictor,
        memory=args.memory,
        separate=args.separate,
        fit=args.fit,
        tile=args.tile,
        threshold=args.threshold,
    )
    folder = Path(args.output) / source.name
    clip = open_clip(source.place, on_error=args.on_error)
    report = segment_clip(segmenter, clip, folder, prompts=prompts, first_mask=first_mask, type=args.type)
    tell(report, f"frames of {clip.source}", folder)
    return report.shown


def tell(report: Report, what: str, folder: str | Path) -> None:
    print(f"{report.written} {what} segmented into {folder}")
    if report.empty:
        print(f"  nothing was found in {report.empty} of them; a lower --threshold finds more")
    for sentence in report.skipped:
        print(f"  left out: {sentence}")


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that do not go together, before anything is loaded."""
    if args.prompts and (args.prompt_image or args.prompt_mask or args.prompt_from):
        raise ValueError("--prompts replaces --prompt-image, --prompt-mask and --prompt-from")
    if args.prompt_from and args.prompt_mask:
        raise ValueError("--prompt-from oneformer makes the masks itself; leave --prompt-mask out")
    if not (args.prompts or args.prompt_mask or args.prompt_from):
        raise ValueError("there is no prompt: give --prompt-image with --prompt-mask, or --prompts, or --prompt-from")
    if args.prompt_image and args.prompt_mask and len(args.prompt_image) != len(args.prompt_mask):
        raise ValueError(
            f"{len(args.prompt_image)} --prompt-image but {len(args.prompt_mask)} --prompt-mask; "
            "give one mask per picture"
        )
    if args.save_prompts and not args.prompt_image:
        raise ValueError("--save-prompts needs --prompt-image: a first frame is encoded with its clip")
    if args.batch_size < 1:
        raise ValueError(f"--batch-size is a number of pictures, 1 or more; got {args.batch_size}")


def sort_inputs(args: argparse.Namespace) -> tuple[list[Source], list[Source]]:
    """Expand --input into picture files and clips.

    Raises:
        FileNotFoundError, ValueError: for an entry that matches nothing, or clips and pictures whose
            prompts would have to come from a first frame.
    """
    folders = [f for f in args.input if args.video and Path(f).is_dir()]
    others = [f for f in args.input if f not in folders]
    sources = find_sources(others)
    pictures = [s for s in sources if not s.is_video]
    clips = [s for s in sources if s.is_video]
    taken = {s.name for s in sources}
    for folder in folders:
        name, number = Path(folder).resolve().name, 1
        while name in taken:
            number += 1
            name = f"{Path(folder).resolve().name}_{number}"
        taken.add(name)
        clips.append(Source(folder, name, True))
    if pictures and not (args.prompt_image or args.prompts):
        raise ValueError(
            "pictures need examples: give --prompt-image (a first frame only serves clips; a folder "
            "of frames needs --video)"
        )
    if not (args.prompt_image or args.prompts) and len(args.prompt_mask) > 1:
        raise ValueError(f"{len(args.prompt_mask)} --prompt-mask without --prompt-image; a clip has one first frame")
    return pictures, clips


def make_prompts(args, predictor: SegGPTPredictor, images: list, masks: list):
    """The encoded prompts, or None where the first frame of each clip is the prompt."""
    if args.prompts:
        return predictor.load_prompts(args.prompts)
    if not images:
        return None
    return predictor.encode_prompts(
        images, masks, type=args.type, ensemble=args.ensemble, separate=args.separate, fit=args.fit
    )


def prompt_examples(args, prompts, images: list, masks: list) -> list[Shown]:
    """Prompt pictures and their label maps for the joint picture; of a file as the network sees them."""
    if args.prompts:
        return list(zip(prompts.images, prompts.label_maps()))
    maps, _, _ = unify([read_mask(mask, image.shape[:2], args.type) for image, mask in zip(images, masks)])
    return list(zip(images, maps))


def installed_finders() -> dict[str, LoadFinder]:
    """The instance segmenters of other packages that announce themselves: SegGPT itself imports none."""
    return {
        point.name: lambda *arguments, point=point: point.load()(*arguments)
        for point in metadata.entry_points(group=FINDERS)
    }


def object_finder(args: argparse.Namespace, load: LoadFinder) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """A function from pictures to label maps of what OneFormer finds in them, the surest on top.

    Labels number the objects through all pictures, for an object of one is none of the next; with --type
    semantic they are class numbers. What each means is printed.

    Raises:
        ValueError: by the function, for a picture in which it finds nothing.
    """
    finder = load(args.oneformer_config_file, args.oneformer_weights, args.device)

    def find(images: list[np.ndarray]) -> list[np.ndarray]:
        names: dict[int, str] = {}
        maps = []
        for i, image in enumerate(images):
            found = finder(image, "instance", confidence=args.confidence).instance
            if not len(found.masks):
                raise ValueError(
                    f"OneFormer finds no instance above {args.confidence} in prompt picture {i}; lower "
                    "--confidence or give --prompt-mask"
                )
            labels = np.zeros(image.shape[:2], np.int32)
            for k in np.argsort(found.scores, kind="stable"):
                semantic = args.type == "semantic"
                label = int(found.class_indices[k]) + 1 if semantic else len(names) + 1
                names[label] = found.names[k]
                labels[found.masks[k]] = label
            maps.append(labels)
        print("OneFormer finds " + ", ".join(f"{label}: {name}" for label, name in sorted(names.items())))
        return maps

    return find

