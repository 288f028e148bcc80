"""Pictures per second of a video and of a folder: one after the other, and with reading ahead and writing behind.

    python benchmarks/video.py [--frames 40] [--size 480 640] [--weights FILE] [--device cpu]

Makes a clip, and a folder of as many photographs of which every other one is upright, then runs the same steps both
ways: decode, all three tasks, draw, encode; of the folder also the machine-readable results. Overlapped is here always
so; `oneformer predict` does it where the model leaves a core or is on a GPU (`segcore.overlap.places`). Ends with one
JSON line; `--output` keeps it in a file.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

# This file's folder would hide the package of the same name.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from benchmarks.reporting import report  # noqa: E402
from oneformer import OneFormerPredictor  # noqa: E402
from oneformer.commands import predict  # noqa: E402
from segcore import overlap  # noqa: E402
from segcore.inputs import Source, find_sources  # noqa: E402
from segcore.overlap import Behind, ahead  # noqa: E402
from segcore.results import ResultWriter, write_picture  # noqa: E402
from segcore.video import VideoSource, VideoWriter  # noqa: E402
from segcore.visualization import render  # noqa: E402


def main() -> None:
    args = parse()
    predictor = OneFormerPredictor(weights=args.weights, device=args.device)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        make_clip(clip, args.frames, tuple(args.size))
        photos = make_folder(Path(folder) / "photos", args.frames, tuple(args.size))
        one_after_the_other(predictor, clip, 2)
        runs = {
            "video, one after the other": lambda: one_after_the_other(predictor, clip, args.frames),
            "video, overlapped": lambda: overlapped(predictor, clip, args.frames),
            "folder, one after the other": lambda: folder_one_after_the_other(predictor, photos),
            "folder, overlapped": lambda: folder_overlapped(predictor, photos),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    rates = {name: args.frames / statistics.median(values) for name, values in seconds.items()}
    for name, rate in rates.items():
        print(f"{name}: {rate:.2f} per second")
    result = {"benchmark": "oneformer_video", "pictures_per_second": rates, "size": args.size, "frames": args.frames,
              "repeats": args.repeats, "device": str(predictor.device)}
    report(result, args.output)


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--frames", type=int, default=40)
    p.add_argument("--size", type=int, nargs=2, default=[480, 640], metavar=("HEIGHT", "WIDTH"))
    p.add_argument("--weights", help="default: the bundled ones")
    p.add_argument("--device", help="default: what the machine has")
    p.add_argument("--repeats", type=int, default=3)
    p.add_argument("--output", help="JSON file for the result")
    return p.parse_args()


def make_clip(path: Path, frames: int, size: tuple[int, int]) -> None:
    """A gradient that moves under fixed noise."""
    noise = np.random.default_rng(0).integers(0, 60, (*size, 3))
    ramp = np.linspace(0, 180, size[1])[None, :, None]
    with VideoWriter(path, 25) as video:
        for i in range(frames):
            video.add((noise + np.roll(ramp, 8 * i, axis=1)).astype(np.uint8))


def one_after_the_other(predictor: OneFormerPredictor, clip: Path, frames: int) -> None:
    with VideoWriter(clip.with_name("result.mp4"), 25) as movie:
        for _, frame in zip(range(frames), VideoSource(str(clip))):
            movie.add(render(frame, predictor(frame, "all"), "panoptic"))


def overlapped(predictor: OneFormerPredictor, clip: Path, frames: int) -> None:
    with VideoWriter(clip.with_name("result.mp4"), 25) as movie, Behind() as behind:

        def write(frame, prediction):
            movie.add(render(frame, prediction, "panoptic"))

        for _, frame in zip(range(frames), ahead(VideoSource(str(clip)))):
            behind.submit(write, frame, predictor(frame, "all"))


def make_folder(folder: Path, count: int, size: tuple[int, int]) -> list[Source]:
    """JPEGs of a gradient under noise, every other one turned."""
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 60, (*size, 3))
    ramp = np.linspace(0, 180, size[1])[None, :, None]
    for i in range(count):
        image = (noise + np.roll(ramp, 8 * i, axis=1)).astype(np.uint8)
        write_picture(folder / f"{i:03d}.jpg", np.ascontiguousarray(np.rot90(image) if i % 2 else image))
    return find_sources([str(folder)])


def folder_one_after_the_other(predictor: OneFormerPredictor, photos: list[Source]) -> None:
    with tempfile.TemporaryDirectory() as out, ResultWriter(Path(out), predictor.classes) as writer:
        for source in photos:
            image = predict.opened(source)
            predict.write_photo(source, image, predictor(image, "all"), 0.0, writer, "all")


def folder_overlapped(predictor: OneFormerPredictor, photos: list[Source]) -> None:
    with (
        mock.patch.object(overlap, "places", lambda count, device: count),
        tempfile.TemporaryDirectory() as out,
        ResultWriter(Path(out), predictor.classes) as writer,
        tqdm(disable=True) as bar,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        log = predict.Log(bar)
        predict.segment_photos(photos, predictor, writer, "all", log)
        if log.places:
            raise RuntimeError(f"could not segment {log.places}")


if __name__ == "__main__":
    main()
