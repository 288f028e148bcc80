"""Segment photographs, videos or a camera with OneFormer: one model, three tasks.

  {prog} --task all --input street.jpg
  {prog} --task panoptic --input photos/ 'more/*.png' --output results --confidence 0.7
  {prog} --task all --input clip.mp4 --device cuda
  {prog} --webcam --task instance          (until Ctrl-C)
  {prog} --config-file configs/ade20k/oneformer_swin_l.yaml --weights model.pth --input a.jpg

What it writes under --output, for a picture NAME:
  NAME_panoptic.jpg NAME_instance.jpg NAME_semantic.jpg   the result of each asked task, with a legend
  NAME_sheet.jpg                      photograph and all three results side by side (--task all)
  panoptic.json panoptic/NAME.png     COCO panoptic format: segment id = R + 256 G + 65536 B
  instances.json                      COCO format: RLE masks, boxes, scores, categories
  semantic.json semantic/NAME.png     8-bit label map with a palette, and what its values mean
  FORMAT/TASK/NAME.*                  with --format: GeoJSON, SVG, labelme, CVAT, Cityscapes
A video gives .mp4 files in place of the .jpg, and one PNG per frame (NAME/000000.png).

Exit status: 0 if everything was segmented; 1 if an input could not be (the others still are).
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING

from oneformer.tasks import ALL, TASKS
from segcore.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    from tqdm import tqdm

    from oneformer import OneFormerPredictor
    from segcore.inputs import Source
    from segcore.predictions import Prediction
    from segcore.results import ResultWriter

# KEY of Detectron2's settings, where it might be taken for a file.
CONFIG_KEY = re.compile(r"(MODEL|INPUT|DATASETS|DATALOADER|SOLVER|TEST)(\.\w+)+")
# What is wrong with one input; a full disk or a folder without write access ends the run.
ONE_INPUT = (ValueError, FileNotFoundError)
VIDEO_LONG_SIDE = 1280  # of a rendered frame, pixels
SHEET_LONG_SIDE = 800  # of one of its four panels


def main(argv: list[str] | None = None, prog: str = "oneformer predict") -> int:
    """Run the command; returns the exit status."""
    args = parse_args(argv, prog)
    try:
        return run(args)
    # What a user can get wrong ends in one sentence; anything else is a bug and keeps its traceback.
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    """Find the inputs, build the model, segment one input after the other."""
    from segcore.inputs import find_sources

    sources = find_sources(args.input, args.webcam)
    if not sources:
        raise ValueError("nothing to segment: give --input FILE, FOLDER, GLOB or VIDEO, or --webcam")
    output = Path(args.output)
    check_output(output, sources)
    # The inputs are known to be there before seconds are spent on the model.
    from oneformer import OneFormerPredictor
    from segcore.results import ResultWriter

    predictor = OneFormerPredictor(
        args.config_file,
        args.weights,
        args.device,
        confidence=args.confidence,
        precision=args.precision,
        compiled=args.compile,
        opts=args.opts,
    )
    announce(predictor)
    with ResultWriter(output, predictor.classes, args.format) as writer:
        failed = segment_all(sources, predictor, writer, args)
    return report(len(sources), failed, output)


def segment_all(
    sources: list[Source], predictor: OneFormerPredictor, writer: ResultWriter, args: argparse.Namespace
) -> list[str]:
    """Segment every source; returns the places of those that could not be read."""
    from tqdm import tqdm

    with tqdm(total=len(sources), unit="input", disable=len(sources) < 2 or None) as bar:
        log = Log(bar)
        for is_video, group in groupby(sources, key=attrgetter("is_video")):
            if not is_video:
                segment_photos(list(group), predictor, writer, args.task, log)
                continue
            for source in group:
                try:
                    log.done(segment_video(source, predictor, writer, args))
                except ONE_INPUT as error:
                    log.failed(source, error)
    return log.places


class Log:
    """Says what became of each input; `places` are those that failed."""

    def __init__(self, bar: tqdm) -> None:
        self.bar, self.places = bar, []

    def done(self, message: str) -> None:
        self.bar.write(message)
        self.bar.update()

    def failed(self, source: Source, error: Exception) -> None:
        self.places.append(str(source.place))
        self.bar.write(f"error: {error}", file=sys.stderr)
        self.bar.update()


def segment_photos(
    photos: list[Source], predictor: OneFormerPredictor, writer: ResultWriter, task: str, log: Log
) -> None:
    """Photographs one after the other: read ahead, and drawn and written behind, while the model works."""
    from segcore.overlap import Behind, ahead, places

    def finish(source: Source, image: np.ndarray, prediction: Prediction, seconds: float) -> None:
        try:
            log.done(write_photo(source, image, prediction, seconds, writer, task))
        except ONE_INPUT as error:
            log.failed(source, error)

    # One waits on each side: a prediction of a large photograph takes much memory.
    count = places(1, predictor.device)
    with Behind(count) as behind, closing(ahead(map(opened, photos), count)) as pictures:
        for source, image in zip(photos, pictures):
            if isinstance(image, Exception):
                behind.submit(log.failed, source, image)
                continue
            start = time.perf_counter()
            prediction = predictor(image, task)
            behind.submit(finish, source, image, prediction, time.perf_counter() - start)


def opened(source: Source) -> np.ndarray | ValueError | FileNotFoundError:
    """The photograph, or what is wrong with it."""
    from segcore.data.photo import read_photo

    try:
        return read_photo(source.place)
    except ONE_INPUT as error:
        return error


def write_photo(
    source: Source, image: np.ndarray, prediction: Prediction, seconds: float, writer: ResultWriter, task: str
) -> str:
    """Draw and write the results of one photograph; returns the line that is printed."""
    from segcore.results import write_picture
    from segcore.visualization import contact_sheet, with_legend

    # Drawn before anything is written: what fails leaves nothing behind.
    pictures = {name: with_legend(image, prediction, name) for name in TASKS if task in (name, ALL)}
    if task == ALL:
        pictures["sheet"] = contact_sheet(image, prediction, Path(source.place).name)
    for name, picture in pictures.items():
        write_picture(writer.folder / f"{source.name}_{name}.jpg", picture)
    writer.add(source.name, str(source.place), prediction)
    height, width = prediction.size
    return f"{source.place}: {width}x{height}, {summary(prediction)}, {seconds:.2f} s"


def segment_video(
    source: Source, predictor: OneFormerPredictor, writer: ResultWriter, args: argparse.Namespace
) -> str:
    """Segment and draw a video or camera frame by frame; returns the line that is printed.

    Frames are decoded ahead, and drawn and written behind, while the model works.
    """
    from tqdm import tqdm

    from segcore.overlap import Behind, ahead, places
    from segcore.video import VideoSource, VideoWriter

    video = VideoSource(source.place)
    total = min(filter(None, (video.count, args.max_frames)), default=None)
    done = 0
    with ExitStack() as stack:
        stack.callback(video.close)
        names = [*TASKS, "sheet"] if args.task == ALL else [args.task]
        movies = {
            name: stack.enter_context(VideoWriter(writer.folder / f"{source.name}_{name}.mp4", video.fps))
            for name in names
        }
        bar = stack.enter_context(tqdm(total=total, unit="frame", desc=source.name, leave=False))
        count = places(2, predictor.device)
        behind = stack.enter_context(Behind(count))   # left first: the movies are complete when they close

        def write(number: int, frame: np.ndarray, prediction: Prediction) -> None:
            for name, picture in drawn_frame(frame, prediction, names):
                movies[name].add(picture)
            writer.add(f"{source.name}/{number:06d}", f"{source.place}#{number}", prediction)

        frames = stack.enter_context(closing(ahead(islice(video, args.max_frames), count)))
        try:
            for frame in frames:
                behind.submit(write, done, frame, predictor(frame, args.task))
                done += 1
                bar.update()
        except KeyboardInterrupt:
            if not isinstance(source.place, int):
                raise
            # Ctrl-C is how a camera is stopped; the movies close as usual.
    return f"{video.name}: {done} frames"


def drawn_frame(
    frame: np.ndarray, prediction: Prediction, names: list[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, picture) for each movie: without a legend, which would change its size from frame to frame."""
    import cv2

    from segcore.visualization import grid, render

    long_side = min(max(frame.shape[:2]), VIDEO_LONG_SIDE)
    for name in names:
        if name != "sheet":
            yield name, render(frame, prediction, name, long_side)
    if "sheet" in names:
        panels = [render(frame, prediction, task, SHEET_LONG_SIDE) for task in TASKS]
        height, width = panels[0].shape[:2]
        yield "sheet", grid([cv2.resize(frame, (width, height)), *panels], columns=2)


def summary(prediction: Prediction) -> str:
    """What was found, in a few words."""
    parts = []
    if prediction.panoptic is not None:
        parts.append(f"{len(prediction.panoptic.segments)} segments")
    if prediction.instance is not None:
        parts.append(f"{len(prediction.instance)} objects")
    if prediction.semantic is not None:
        parts.append(f"{len(prediction.semantic.shares())} classes")
    return ", ".join(parts)


def announce(predictor: OneFormerPredictor) -> None:
    """Say which model runs, and under which terms its training data came."""
    names = predictor.classes.names
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    print(f"model: {predictor.weights} on {predictor.device}; {len(names)} classes: {shown}")
    if predictor.terms:
        print(f"terms of its training data: {predictor.terms}")


def report(count: int, failed: list[str], output: Path) -> int:
    """The last lines, and the exit status."""
    if len(failed) < count:
        print(f"results of {count - len(failed)} input{'s' * (count - len(failed) > 1)} in {output}")
    if failed:
        print(f"{len(failed)} of {count} inputs could not be segmented: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def check_output(output: Path, sources: list[Source]) -> None:
    """Results must not fall among the pictures: the next run would take them for inputs.

    Raises:
        ValueError: if they would.
        NotADirectoryError: if the output is a file.
    """
    if output.exists() and not output.is_dir():
        raise NotADirectoryError(f"--output {output} is a file; give a folder")
    for source in sources:
        if not isinstance(source.place, int) and Path(source.place).resolve().parent == output.resolve():
            raise ValueError(
                f"--output {output} is the folder of the input {source.place}; give another folder"
            )


def parse_args(argv: list[str] | None = None, prog: str = "oneformer predict") -> argparse.Namespace:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=__doc__.format(prog=prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to segment")
    what.add_argument(
        "--input",
        nargs="+",
        default=[],
        metavar="FILE",
        help="images, folders, 'globs', videos; a bare number is a camera",
    )
    what.add_argument(
        "--webcam",
        nargs="?",
        type=int,
        const=0,
        action="append",
        default=[],
        metavar="N",
        help="camera number N (default 0), until Ctrl-C",
    )
    what.add_argument(
        "--task",
        choices=(*TASKS, ALL),
        default=ALL,
        help="all (the default) decodes three tasks from one pass of the backbone",
    )
    what.add_argument(
        "--confidence",
        type=probability,
        metavar="P",
        help="least score of objects and panoptic segments, 0..1 (default: 0.5 for objects, the "
        "config's MODEL.TEST.OBJECT_MASK_THRESHOLD for panoptic segments)",
    )
    what.add_argument(
        "--max-frames", type=positive, metavar="N", help="stop a video or camera after N frames"
    )
    model = parser.add_argument_group("with which model (default: the small one in demo/weights)")
    model.add_argument(
        "--weights",
        metavar="PATH|hf:ORG/NAME",
        help="portable .safetensors, which need no config; with --config-file also .pth, "
        "a Hugging Face folder or hf:ORG/NAME",
    )
    model.add_argument("--config-file", metavar="CFG", help="the config that the weights belong to")
    model.add_argument("--device", metavar="cpu|cuda", help="default: what the machine has")
    model.add_argument(
        "--precision",
        metavar="fp32|bf16",
        default="fp32",
        help="bf16: large products in bfloat16, faster where the processor has instructions for it (default: fp32)",
    )
    model.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile: minutes before the first picture, for many pictures or a video",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        default=[],
        metavar="FORMAT",
        choices=tuple(FORMATS),
        help="files for other programs besides: " + "; ".join(f"{key} ({f.about})" for key, f in FORMATS.items()),
    )
    parser.add_argument("--output", default="output/demo", metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="settings of the config, last on the line: MODEL.TEST.OVERLAP_THRESHOLD 0.6",
    )
    args = parser.parse_args(argv)
    split_opts(args)
    return args


def split_opts(args: argparse.Namespace) -> None:
    """Hand over to `opts` the settings that --input, which takes any number of words, has swallowed."""
    for place, word in enumerate(args.input):
        if CONFIG_KEY.fullmatch(word) and not Path(word).exists():
            args.opts = [*args.input[place:], *args.opts]
            args.input = args.input[:place]
            return


def probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {text}")
    return value


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value

