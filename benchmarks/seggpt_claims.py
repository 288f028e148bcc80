"""SegGPT's arguments on photographs: random colours, examples that add up in the features, prompts that are learnt.

    python benchmarks/seggpt_claims.py colours      # two equal trainings, random colours against fixed ones
    python benchmarks/seggpt_claims.py ensembles    # 1, 2, 4, 8 examples: feature and spatial ensemble
    python benchmarks/seggpt_claims.py tuned        # a learnt prompt against the best of random examples

The first two read labelmefacade_panoptic, dsb2018_nuclei, cwfid_panoptic, camvid and coco_tiny_instances under
$DETECTRON2_DATASETS, the third draws its scenes there. A training whose weights are not there yet is run first
(configs/seggpt/claims_*.yaml, a quarter of an hour each on two cores). Prints a table, writes one JSON file. "+-"
is half of the 95 % interval over other lists of episodes; what another training would give, several seeds show.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

REPO = Path(__file__).resolve().parents[1]
# This file's folder would hide the package of the same name.
sys.path[0] = str(REPO)

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from detectron2.config import CfgNode, get_cfg  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from PIL import Image  # noqa: E402

from benchmarks.reporting import report  # noqa: E402
from segcore.config import resolve_datasets  # noqa: E402
from segcore.data.builtin import datasets_root  # noqa: E402
from segcore.data.images import read_image, read_label_png  # noqa: E402
from segcore.data.kinds.scene import CATEGORIES, draw_scene, kind_named  # noqa: E402
from segcore.engine.ema import load_average  # noqa: E402
from seggpt import SegGPTPredictor, add_seggpt_config  # noqa: E402
from seggpt.data.colouring import fixed_colours, random_colours  # noqa: E402
from seggpt.evaluation.counts import OverlapCounter  # noqa: E402
from seggpt.evaluation.episodes import Episode, draw_episodes, members_by_category  # noqa: E402
from seggpt.evaluation.few_shot import (  # noqa: E402
    Example,
    RecordReader,
    class_names,
    trivial_answers,
    visible,
)
from seggpt.evaluation.semantic import evaluate_prompts  # noqa: E402
from seggpt.modeling import SegGPT, SegGPTTuner  # noqa: E402
from seggpt.pictures import fit_labels, fit_picture  # noqa: E402
from seggpt.prompts import Prompts  # noqa: E402
from seggpt.tuning import tuned_prompts  # noqa: E402

SETS = "configs/seggpt/claims_sets.yaml"
# What the trainings never saw, and what they did: (set, classes, how the rows call it).
HELD_OUT = (
    ("facade_val", ("window", "door"), "windows, doors"),
    ("nuclei_train", ("nucleus",), "nuclei"),
    ("weeds_train", ("crop", "weed"), "field plants"),
)
SEEN = ("facade_val", ("building", "car", "pavement", "road", "sky", "vegetation"), "seen classes")
EXAMPLES = (1, 2, 4, 8)
THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(1, 20))
ZOOM, SIDE = 2.5, 128  # see `close_up`
SCENES_SEED = 7  # of the scenes of `tuned`
FAR = 250  # of the colours drawn here, from black (sum over RGB), so that reading them back is no matter of luck


def main() -> None:
    args = parse()
    resolve_datasets(load_config(SETS))
    rows = {"colours": colours, "ensembles": ensembles, "tuned": tuned}[args.claim](args)
    result = {
        "benchmark": f"seggpt_claims_{args.claim}",
        "episodes per set": args.episodes,
        "seed of the episodes": args.seed,
        "steps": args.at or "all",
        "pictures": f"squares around the largest object of the class, {ZOOM} times as wide",
        "rows": rows,
    }
    print_table(rows)
    report(result, args.output)


def parse() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("claim", choices=["colours", "ensembles", "tuned"])
    p.add_argument("--runs", default="output/seggpt_claims", help="folder of the trainings")
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings of `colours`")
    p.add_argument("--mini", default=str(REPO / "demo/weights/seggpt_mini.safetensors"), help="seggpt_mini's weights")
    p.add_argument("--at", type=int, help="take the trainings of `colours` after so many steps of their schedule")
    p.add_argument("--episodes", type=int, default=400)
    p.add_argument("--examples", type=int, default=40, help="random examples that `tuned` is compared with")
    p.add_argument("--seed", type=int, default=0, help="of the lists of episodes")
    p.add_argument("--workers", type=int, default=2, help="processes that measure")
    p.add_argument("--threads", type=int, default=1, help="of each of them")
    p.add_argument("--output", help="JSON file for the result")
    return p.parse_args()


# -- the claims -----------------------------------------------------------------------------------


class Job(NamedTuple):
    """Rows of one training on one set: one for each number of examples; no training: what needs no model."""

    training: str | None
    seed: int
    set: str
    classes: Sequence[str]
    asked: str
    examples: Sequence[int] = ()
    ensemble: str = "feature"
    colour: str = "white"


def colours(args: argparse.Namespace) -> list[dict]:
    """Rows: (training, colour of the examples), on classes that it saw and on classes held out from it."""
    jobs = []
    for seed in args.seeds:
        for kind in ("random", "fixed"):
            jobs += [Job(kind, seed, *SEEN, (1,), colour="the class's own")]
            jobs += [Job(kind, seed, *asked, (1, 4), colour="drawn") for asked in (SEEN, *HELD_OUT)]
    return run_all(args, jobs + [Job(None, 0, *asked) for asked in (SEEN, *HELD_OUT)])


def ensembles(args: argparse.Namespace) -> list[dict]:
    """Rows: (ensemble, number of examples), on what the training with random colours saw and did not see."""
    jobs = []
    for asked in (SEEN, *HELD_OUT):
        jobs += [Job("random", 0, *asked, EXAMPLES), Job("random", 0, *asked, EXAMPLES[1:], "spatial")]
        jobs.append(Job(None, 0, *asked))  # one example is the same in both ensembles
    return run_all(args, jobs)


def tuned(args: argparse.Namespace) -> list[dict]:
    """Rows: the learnt prompt, and random examples of the training scenes, on new scenes.

    All paint the classes in the same colours and are read alike. The best example is chosen by the very numbers
    that it is reported with, which favours it.
    """
    cfg = load_config("configs/seggpt/claims_tuned.yaml")
    names = cfg.DATASETS.CUSTOM[0]["classes"]
    write_kinds(Path(datasets_root()), names[1:])
    own = ["MODEL.SEGGPT.TUNING.NETWORK", args.mini]
    cfg.merge_from_list(own)
    resolve_datasets(cfg)
    tuner = SegGPTTuner(cfg).eval()
    tuner.load_state_dict(state_of(args, "tuned", "tuned", 0, own)["model"])
    predictor = SegGPTPredictor(model=tuner.model)
    palette = fixed_colours(len(names))
    examples = [class_iou(predictor, prompt, names) for prompt in random_examples(args, predictor, palette)]
    examples.sort(key=lambda found: -found["mIoU"])
    return [
        {"prompt": "learnt", **class_iou(predictor, tuned_prompts(tuner, palette), names)},
        {"prompt": f"best of {len(examples)} examples", **examples[0]},
        {"prompt": "middle one of them", **examples[len(examples) // 2], "all": [e["mIoU"] for e in examples]},
    ]


def write_kinds(root: Path, names: Sequence[str]) -> None:
    """six_kinds/{train,val}/{images,labels}: scenes of the named kinds, each a class after the ground."""
    kinds = tuple(kind_named(name) for name in names)
    class_of = {CATEGORIES[kind]["id"]: number for number, kind in enumerate(kinds, 1)}
    for stream, (split, count) in enumerate((("train", 400), ("val", 100))):
        folder = root / "six_kinds" / split
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            scene = draw_scene(kinds, SCENES_SEED, stream, number)
            labels = np.zeros(scene.ids.shape, np.uint8)
            for segment in scene.segments:
                labels[scene.ids == segment["id"]] = class_of.get(segment["category_id"], 0)
            Image.fromarray(labels).save(folder / "labels" / f"{number:03}.png")
            Image.fromarray(scene.image).save(folder / "images" / f"{number:03}.png")


def random_examples(args, predictor: SegGPTPredictor, palette: np.ndarray) -> Iterator[Prompts]:
    """Scenes of the training set with all of their classes painted, one prompt each."""
    records = DatasetCatalog.get("six_kinds_train")
    for number in np.random.default_rng(args.seed).permutation(len(records))[: args.examples]:
        image = read_image(records[number]["file_name"], "RGB")
        labels = read_label_png(records[number]["sem_seg_file_name"])
        canvas = fit_picture(image, predictor.size, "squash").pixels
        yield prompt_of(predictor, canvas, palette[fit_labels(labels, predictor.size, "squash")], palette)


def prompt_of(predictor: SegGPTPredictor, canvas: np.ndarray, painting: np.ndarray, palette: np.ndarray) -> Prompts:
    """A pair as the handle that the learnt prompt has too: the same network, type and colours."""
    tuner = SegGPTTuner(model=predictor.model)
    with torch.no_grad():
        for learnt, pixels in ((tuner.prompt_image, canvas), (tuner.prompt_target, painting)):
            learnt.copy_(predictor.model.normalize(torch.from_numpy(pixels.copy()).permute(2, 0, 1)))
    return tuned_prompts(tuner, palette)


def class_iou(predictor: SegGPTPredictor, prompts: Prompts, names: Sequence[str]) -> dict:
    found = evaluate_prompts(predictor, "six_kinds_val", prompts)["sem_seg"]
    by_class = {name: round(float(found[f"IoU-{name}"]), 2) for name in names}
    return {"mIoU": round(float(found["mIoU"]), 2), "by class": by_class}


# -- measuring ------------------------------------------------------------------------------------


def run_all(args: argparse.Namespace, jobs: Sequence[Job]) -> list[dict]:
    """The rows of all jobs, in order."""
    for kind, seed in dict.fromkeys((job.training, job.seed) for job in jobs if job.training):
        state_of(args, kind, f"{kind}{seed}", seed, at=args.at)  # trainings one after the other
    with ProcessPoolExecutor(args.workers, multiprocessing.get_context("fork")) as pool:
        return [row for rows in pool.map(functools.partial(measure, args), jobs) for row in rows]


def measure(args: argparse.Namespace, job: Job) -> list[dict]:
    """The rows of one job; all numbers of examples, and all trainings, answer the same questions."""
    torch.set_num_threads(args.threads)
    episodes, read = episodes_of(args, job.set, job.classes)
    labels = {"asked": job.asked, "set": job.set}
    if job.training is None:
        found = trivial_answers(episodes[(len(episodes) + 1) // 2 :], read)
        return [{"answer": answer, **labels, **of_classes(counter, job.set)} for answer, counter in found.items()]
    cfg, predictor = trained(args, job.training, job.seed)
    colour_of = {
        "white": lambda episode: (255, 255, 255),
        "drawn": drawn_colour,
        "the class's own": functools.partial(own_colour, own_colours(cfg), job.set),
    }[job.colour]
    labels = {"training": job.training, "seed": job.seed, **labels, "colour": job.colour, "ensemble": job.ensemble}
    rows = []
    for count in job.examples:
        threshold, counter = answer(predictor, episodes, read, count, job.ensemble, colour_of)
        rows.append({**labels, "examples": count, "threshold": threshold, **of_classes(counter, job.set)})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def answer(predictor, episodes, read, count: int, ensemble: str, colour_of) -> tuple[float, OverlapCounter]:
    """Answer episodes; the second half counts, at the threshold of the score that is best for the first half.

    Trained this shortly, and with a squared error, a network paints pale what it is not sure of; half of a colour's
    strength, which the predictor asks for by itself, would measure how sure it is.
    """
    halves = [{t: OverlapCounter() for t in THRESHOLDS} for _ in range(2)]
    for number, episode in enumerate(episodes):
        query = read(episode.query, episode.category)
        examples = [read(n, episode.category) for n in episode.supports[:count]]
        colour = np.array(colour_of(episode), np.uint8)
        paintings = [visible(e.mask, predictor.size)[..., None] * colour for e in examples]
        prompts = predictor.encode_prompts([e.image for e in examples], paintings, type="semantic", ensemble=ensemble)
        score = predictor(query.image, prompts).scores[1]
        for threshold, counter in halves[2 * number // len(episodes)].items():
            counter.add(episode.category, score > threshold, query.mask, query.valid)
    best = max(THRESHOLDS, key=lambda t: np.mean(list(halves[0][t].class_iou().values())))
    return best, halves[1][best]


@functools.cache
def set_of(name: str) -> tuple[RecordReader, dict[int, list[int]]]:
    reader = RecordReader(DatasetCatalog.get(name), MetadataCatalog.get(name))
    members = members_by_category([reader.categories(n, False) for n in range(len(reader.records))])
    return reader, members


def episodes_of(args, name: str, classes: Sequence[str]):
    """The questions of a set, the same for every model and number of examples, and their reader."""
    reader, members = set_of(name)
    wanted = {class_names(MetadataCatalog.get(name)).index(c) for c in classes}
    members = {c: numbers for c, numbers in members.items() if c in wanted}
    return draw_episodes(members, args.episodes, max(EXAMPLES), args.seed), kept(reader)


@functools.cache
def kept(reader: RecordReader) -> Callable[[int, int], Example]:
    """The reader, with what it read lately, cut around the largest object of the asked class."""
    return functools.lru_cache(2000)(lambda number, category: close_up(reader(number, category)))


def close_up(example: Example) -> Example:
    """The square around the largest piece of the mask, ZOOM times as wide as it, at SIDE pixels.

    The network sees 64 x 64 pixels: windows, nuclei and plants of a whole picture are specks there.
    """
    _, _, boxes, _ = cv2.connectedComponentsWithStats(example.mask.astype(np.uint8))
    left, top, width, height, _ = max(boxes[1:], key=lambda box: box[4])
    rows, cols = example.mask.shape
    side = min(round(ZOOM * max(width, height)), rows, cols)
    x = min(max(left + width // 2 - side // 2, 0), cols - side)
    y = min(max(top + height // 2 - side // 2, 0), rows - side)
    box, size = (x, y, x + side, y + side), (SIDE, SIDE)
    image = Image.fromarray(example.image).resize(size, Image.Resampling.BICUBIC, box=box)
    nearest = (Image.fromarray(m).resize(size, Image.Resampling.NEAREST, box=box) for m in example[1:])
    return Example(np.asarray(image), *map(np.asarray, nearest))


def of_classes(counter: OverlapCounter, name: str) -> dict:
    """The counter's numbers, those of each class by its name, and the interval's ends."""
    names = class_names(MetadataCatalog.get(name))
    by_class = {names[c]: round(v, 2) for c, v in counter.class_iou().items()}
    numbers = {key: round(value, 2) for key, value in counter.results().items()}
    return {**numbers, "interval": [round(v, 2) for v in counter.interval()], "by class": by_class}


def drawn_colour(episode: Episode) -> np.ndarray:
    """A colour for the examples of an episode, the same whichever model answers it."""
    rng = np.random.default_rng([episode.query, episode.category, *episode.supports])
    return random_colours(rng, 1, FAR)[0]


def own_colours(cfg: CfgNode) -> dict[str, np.ndarray]:
    """The colour of each class in a training with fixed colours."""
    names = class_names(MetadataCatalog.get(cfg.DATASETS.CLASSES))
    return dict(zip(names, fixed_colours(len(names))))


def own_colour(own: dict[str, np.ndarray], name: str, episode: Episode) -> np.ndarray:
    return own[class_names(MetadataCatalog.get(name))[episode.category]]


# -- trainings ------------------------------------------------------------------------------------


def trained(args, kind: str, seed: int) -> tuple[CfgNode, SegGPTPredictor]:
    """The averaged weights of a training; it is run first where they are not there."""
    cfg = load_config(f"configs/seggpt/claims_{kind}.yaml")
    resolve_datasets(cfg)
    model = SegGPT(cfg)
    load_average(model, state_of(args, kind, f"{kind}{seed}", seed, at=args.at)["ema"])
    return cfg, SegGPTPredictor(model=model)


def state_of(args, kind: str, name: str, seed: int, changes: Sequence[str] = (), at: int | None = None) -> dict:
    """What a training's last checkpoint holds, or the one after `at` steps."""
    folder = (Path(args.runs) / name).resolve()
    path = folder / ("model_final.pth" if at is None else f"model_{at - 1:07d}.pth")
    if not path.is_file():
        command = [sys.executable, "train_net.py", "--config-file", f"configs/seggpt/claims_{kind}.yaml", "--resume",
                   "SEED", str(seed), "OUTPUT_DIR", str(folder), *changes]
        subprocess.run(command, cwd=REPO, check=True)
    return torch.load(path, map_location="cpu", weights_only=True)


def load_config(path: str) -> CfgNode:
    cfg = get_cfg()
    add_seggpt_config(cfg)
    cfg.merge_from_file(str(REPO / path))
    return cfg


def print_table(rows: list[dict]) -> None:
    numbers = ("threshold", "mIoU", "mIoU+-", "FB-IoU", "episodes", "interval", "by class", "all")
    for row in rows:
        label = ", ".join(str(value) for key, value in row.items() if key not in numbers)
        more = f" +- {row['mIoU+-']:.2f}   FB-IoU {row['FB-IoU']:6.2f}" if "mIoU+-" in row else ""
        print(f"{label:78} mIoU {row['mIoU']:6.2f}{more}")


if __name__ == "__main__":
    main()
