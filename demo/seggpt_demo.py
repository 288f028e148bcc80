"""Segment pictures and clips after examples, with SegGPT.

    python demo/seggpt_demo.py --weights seggpt_vit_large.pth \\
        --prompt-image cat1.jpg cat2.jpg --prompt-mask cat1.png cat2.png --type semantic --input "cats/*.jpg"

    # a clip after the mask of its first frame; a folder of frames needs --video
    python demo/seggpt_demo.py --weights W --prompt-mask 00000.png --input clip.mp4

    # OneFormer finds the objects of one picture, SegGPT finds them again in the others
    python demo/seggpt_demo.py --weights W --prompt-from oneformer \\
        --prompt-image first.jpg --input "next/*.jpg"

There are no bundled SegGPT weights. For each picture: STEM_labels.png (label map, DAVIS's palette),
STEM_painting.png (the network's colours) and STEM_overlay.jpg; for a clip: CLIP/masks/*.png and
CLIP/overlay.mp4; and joint.jpg, which shows prompts, their masks and results together.
"""

from __future__ import annotations

import argparse
import glob
import sys
from pathlib import Path

import numpy as np

from seggpt import SegGPTPredictor
from seggpt.colours import THRESHOLD
from seggpt.frames import PICTURES, is_clip, open_clip
from seggpt.labels import read_mask
from seggpt.pictures import FITS, read_mask_file, read_picture
from seggpt.prompts import ENSEMBLES, TYPES
from seggpt.runner import segment_clip, segment_pictures, write_joint_picture
from seggpt.video import VideoSegmenter


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--input", nargs="+", required=True, help="pictures, folders, globs, video files, or camera:0")
    p.add_argument("--video", action="store_true", help="a folder is a clip, not a heap of pictures")
    p.add_argument("--output", default="output/seggpt", help="folder for the results")
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
        choices=["oneformer"],
        help="let OneFormer's instances be the masks of the prompt picture or first frame",
    )
    prompt.add_argument("--type", choices=TYPES, default="instance", help="these very objects, or things of their kind")
    prompt.add_argument("--ensemble", choices=ENSEMBLES, default="feature", help="how several prompts act together")
    prompt.add_argument("--separate", action="store_true", help="one pass per label instead of one colour each")
    prompt.add_argument("--fit", choices=FITS, default="squash", help="to the network's canvas")
    model = p.add_argument_group("model")
    model.add_argument("--weights", help="portable .safetensors, released .pth, or Hugging Face folder")
    model.add_argument("--config-file", help="where the weights do not say")
    model.add_argument("--device", help="cpu, cuda, ...")
    model.add_argument("--batch-size", type=int, default=4)
    model.add_argument("--oneformer-weights", help="for --prompt-from oneformer; default: the bundled ones")
    model.add_argument("--oneformer-config-file")
    model.add_argument("--confidence", type=float, default=0.5, help="least score of OneFormer's instances")
    answer = p.add_argument_group("answers")
    answer.add_argument("--threshold", type=float, default=THRESHOLD, help="of a label's score, 0..1")
    answer.add_argument("--tile", type=int, help="cut large pictures into squares of so many pixels")
    answer.add_argument("--memory", type=int, default=7, help="last frames that join the prompts of a clip")
    answer.add_argument("--on-error", choices=["stop", "skip"], default="stop", help="at a frame that cannot be read")
    return p.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    check_arguments(args)
    pictures, clips = sort_inputs(args)
    images = [read_picture(f) for f in args.prompt_image]
    masks = [read_mask_file(f) for f in args.prompt_mask]
    predictor = SegGPTPredictor(args.config_file, args.weights, args.device, batch_size=args.batch_size)
    if args.prompt_from:
        masks = [find_objects(args, image) for image in images]
    prompts = make_prompts(args, predictor, images, masks)
    if args.save_prompts:
        prompts.save(args.save_prompts)
    examples = [(image, shown_labels(mask, image, args.type)) for image, mask in zip(images, masks)]
    shown = run_pictures(args, predictor, prompts, pictures) if pictures else []
    for source in clips:
        results = run_clip(args, predictor, prompts, masks, source)
        if prompts is None:  # the first frame, with the mask that it was given
            examples, results = examples + results[:1], results[1:]
        shown += results
    joint = Path(args.output) / "joint.jpg"
    write_joint_picture(joint, examples, shown)
    print(f"all together: {joint}")


def run_pictures(args: argparse.Namespace, predictor: SegGPTPredictor, prompts, pictures: list[str]) -> list:
    report = segment_pictures(
        predictor, prompts, pictures, args.output, fit=args.fit, tile=args.tile, threshold=args.threshold
    )
    print(f"{report.written} pictures segmented into {args.output}")
    return report.shown


def run_clip(args: argparse.Namespace, predictor: SegGPTPredictor, prompts, masks: list, source: str) -> list:
    segmenter = VideoSegmenter(predictor, memory=args.memory, separate=args.separate, threshold=args.threshold)
    folder = Path(args.output) / Path(source.replace("camera:", "camera")).stem
    first_mask = None
    if prompts is None:
        first_mask = masks[0] if masks else find_objects(args, first_frame(args, source))
    clip = open_clip(camera_number(source), on_error=args.on_error)
    report = segment_clip(segmenter, clip, folder, prompts=prompts, first_mask=first_mask, type=args.type)
    print(f"{report.written} frames of {source} segmented into {folder}")
    for sentence in report.skipped:
        print(f"  left out: {sentence}")
    return report.shown


def check_arguments(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that do not go together, before anything is loaded."""
    if not args.weights and not args.config_file:
        raise ValueError(
            "SegGPT comes without bundled weights: give --weights (BAAI's seggpt_vit_large.pth, "
            "a Hugging Face folder, a file trained here), and --config-file where they do not say"
        )
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


def sort_inputs(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Expand --input into picture files and clips.

    Raises:
        FileNotFoundError, ValueError: for an entry that matches nothing, or clips and pictures whose
            prompts would have to come from a first frame.
    """
    pictures, clips = [], []
    for entry in args.input:
        if entry.startswith("camera:"):
            clips.append(entry)
            continue
        found = [entry] if Path(entry).exists() else sorted(glob.glob(entry))
        if not found:
            raise FileNotFoundError(f"--input {entry!r} matches no file")
        for path in found:
            if Path(path).is_dir() and not args.video:
                inside = sorted(str(f) for f in Path(path).iterdir() if f.suffix.lower() in PICTURES)
                if not inside:
                    raise ValueError(f"the folder {path!r} has no pictures ({', '.join(PICTURES)})")
                pictures += inside
            else:
                (clips if is_clip(path) else pictures).append(path)
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


def find_objects(args: argparse.Namespace, image: np.ndarray) -> np.ndarray:
    """OneFormer's instances in a picture, (N, H, W) bool, the surest on top.

    Raises:
        ValueError: if it finds none.
    """
    from oneformer import OneFormerPredictor

    finder = OneFormerPredictor(args.oneformer_config_file, args.oneformer_weights, args.device)
    found = finder(image, "instance", confidence=args.confidence).instance
    if not len(found.masks):
        raise ValueError(
            f"OneFormer finds no instance above {args.confidence} in the prompt picture; lower "
            "--confidence or give --prompt-mask"
        )
    surest_last = np.argsort(found.scores, kind="stable")
    return found.masks[surest_last]


def first_frame(args: argparse.Namespace, source: str) -> np.ndarray:
    for frame in open_clip(camera_number(source), on_error=args.on_error):
        return frame.pixels
    raise ValueError(f"the clip {source} has no frame")


def camera_number(source: str) -> str | int:
    return int(source.removeprefix("camera:")) if source.startswith("camera:") else source


def shown_labels(mask, image: np.ndarray, kind: str) -> np.ndarray:
    """A prompt's mask as a label map for the joint picture."""
    labels = read_mask(mask, image.shape[:2], kind)
    if labels.ndim == 2:
        return labels
    codes = labels.astype(np.int64) @ np.array([65536, 256, 1])
    return np.searchsorted(np.unique(codes), codes).astype(np.int32)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"error: {error}")
