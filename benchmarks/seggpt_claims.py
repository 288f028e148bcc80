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
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
# This file's folder would hide the package of the same name.
sys.path[0] = str(REPO)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from detectron2.config import CfgNode, get_cfg  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from PIL import Image  # noqa: E402

from segcore.config import resolve_datasets  # noqa: E402
from segcore.data.builtin import datasets_root  # noqa: E402
from segcore.data.images import read_image, read_label_png  # noqa: E402
from segcore.engine.ema import load_average  # noqa: E402
from seggpt import SegGPTPredictor, add_seggpt_config  # noqa: E402
from seggpt.data.annotations import read_label_map  # noqa: E402
from seggpt.data.colouring import fixed_colours, random_colours  # noqa: E402
from seggpt.evaluation.counts import OverlapCounter  # noqa: E402
from seggpt.evaluation.episodes import Episode, draw_episodes, members_by_category  # noqa: E402
from seggpt.evaluation.few_shot import (  # noqa: E402
    RecordReader,
    class_names,
    evaluate_episodes,
    trivial_answers,
)
from seggpt.evaluation.semantic import evaluate_prompts  # noqa: E402
from seggpt.modeling import SegGPT, SegGPTTuner  # noqa: E402
from seggpt.pictures import fit_labels, fit_picture  # noqa: E402
from seggpt.prompts import Prompts  # noqa: E402
from seggpt.tuning import tuned_prompts  # noqa: E402

SETS = "configs/seggpt/claims_finetuned.yaml"  # registers all sets that are measured
# What the trainings of `colours` never saw, and what they did: (set, classes, how the rows call it).
HELD_OUT = (
    ("facade_val", ("window", "door"), "windows, doors"),
    ("nuclei_train", ("nucleus",), "nuclei"),
    ("weeds_train", ("crop", "weed"), "field plants"),
)
SEEN = (("facade_val", ("building", "car", "pavement", "road", "sky", "vegetation"), "seen classes"),)
KEPT = (
    ("nuclei_val", ("nucleus",), "nuclei"),
    ("facade_val", ("building", "car", "door", "pavement", "road", "sky", "vegetation", "window"), "facades"),
    ("weeds_val", ("crop", "weed"), "field plants"),
)
EXAMPLES = (1, 2, 4, 8)
FAR = 250  # of the colours drawn here, from black (sum over RGB), so that reading them back is no matter of luck


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    resolve_datasets(load_config(SETS))
    rows = {"colours": colours, "ensembles": ensembles, "tuned": tuned}[args.claim](args)
    result = {
        "benchmark": f"seggpt_claims_{args.claim}",
        "episodes per set": args.episodes,
        "seed of the episodes": args.seed,
        "machine": {"processor": platform.processor() or platform.machine(), "torch": torch.__version__},
        "rows": rows,
    }
    print_table(rows)
    print(json.dumps(result))
    if args.output:
        Path(args.output).write_text(json.dumps(result, indent=1) + "\n")


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
    p.add_argument("--threads", type=int, default=torch.get_num_threads())
    p.add_argument("--output", help="JSON file for the result")
    return p.parse_args()


# -- the two claims -------------------------------------------------------------------------------


def colours(args: argparse.Namespace) -> list[dict]:
    """Rows: (training, colour of the examples), on classes that it saw and on classes held out from it."""
    rows = []
    for seed in args.seeds:
        for kind in ("random", "fixed"):
            cfg, predictor = trained(args, kind, seed)
            own = own_colours(cfg)
            for name, classes, column in SEEN:
                of_class = functools.partial(own_colour, own, name)
                rows += measure(args, predictor, name, classes, (1,), colour_of=of_class,
                                training=kind, seed=seed, asked=column, colour="the class's own")
            for name, classes, column in (*SEEN, *HELD_OUT):
                rows += measure(args, predictor, name, classes, (1, 4), colour_of=drawn_colour,
                                training=kind, seed=seed, asked=column, colour="drawn")
    return rows + [row for name, classes, column in (*SEEN, *HELD_OUT)
                   for row in without_model(args, name, classes, asked=column)]


def ensembles(args: argparse.Namespace) -> list[dict]:
    """Rows: (weights, ensemble, number of examples), on the photographs kept for measuring."""
    rows = []
    predictors = {
        "drawn scenes alone (seggpt_mini)": SegGPTPredictor(weights=args.mini),
        "and then these sets": trained(args, "finetuned", 0)[1],
    }
    for name, classes, column in KEPT:
        for weights, predictor in predictors.items():
            for ensemble in ("feature", "spatial"):
                shots = EXAMPLES if ensemble == "feature" else EXAMPLES[1:]  # one example is the same in both
                rows += measure(args, predictor, name, classes, shots, ensemble=ensemble,
                                weights=weights, set=column)
        rows += without_model(args, name, classes, set=column)
    return rows


def tuned(args: argparse.Namespace) -> list[dict]:
    """Rows: the learnt prompt, and random examples of the training scenes, on scenes of held-out kinds.

    All paint both classes in the same colours and are read alike. The best example is chosen by the very numbers
    that it is reported with, which favours it.
    """
    write_things(Path(datasets_root()))
    cfg = load_config("configs/seggpt/claims_tuned.yaml")
    own = ["MODEL.SEGGPT.TUNING.NETWORK", args.mini]
    cfg.merge_from_list(own)
    resolve_datasets(cfg)
    tuner = SegGPTTuner(cfg).eval()
    tuner.load_state_dict(state_of(args, "tuned", "tuned", 0, own)["model"])
    predictor = SegGPTPredictor(model=tuner.model)
    palette = fixed_colours(2)
    learnt = mean_iou(predictor, tuned_prompts(tuner, palette))
    examples = [mean_iou(predictor, prompt) for prompt in random_examples(args, predictor, palette)]
    print(learnt, examples, file=sys.stderr)
    best = max(examples, key=lambda found: found["mIoU"])
    middle = {key: round(float(np.median([e[key] for e in examples])), 2) for key in best}
    return [
        {"prompt": "learnt", **learnt},
        {"prompt": f"best of {len(examples)} examples", **best},
        {"prompt": "middle one of them", **middle, "all": [e["mIoU"] for e in examples]},
    ]


def write_things(root: Path) -> None:
    """kinds_things/{train,val}/{images,labels}: scenes of `kinds` with the classes ground and thing."""
    for split, count in (("train", 400), ("val", 100)):
        folder = root / "kinds_things" / split
        for kind in ("images", "labels"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        for record in DatasetCatalog.get(f"kinds_panoptic_{split}")[:count]:
            image = read_image(record["file_name"], "RGB")
            labels = read_label_map(record, image.shape[:2], by_instance=False, things_only=True)
            name = f"{Path(record['file_name']).stem}.png"
            Image.fromarray((labels > 0).astype(np.uint8)).save(folder / "labels" / name)
            Image.fromarray(image).save(folder / "images" / name)


def random_examples(args, predictor: SegGPTPredictor, palette: np.ndarray) -> Iterator[Prompts]:
    """Scenes of the training set with both classes painted, one prompt each."""
    records = DatasetCatalog.get("things_train")
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


def mean_iou(predictor: SegGPTPredictor, prompts: Prompts) -> dict[str, float]:
    found = evaluate_prompts(predictor, "things_val", prompts)["sem_seg"]
    return {"mIoU": round(float(found["mIoU"]), 2), "of things": round(float(found["IoU-thing"]), 2)}


# -- measuring ------------------------------------------------------------------------------------


def measure(args, predictor, name: str, classes: Sequence[str], shots: Sequence[int], *, ensemble: str = "feature",
            colour_of: Callable | None = None, **labels) -> list[dict]:
    """One row per number of examples; all answer the same questions."""
    episodes, read = episodes_of(args, name, classes)
    rows = []
    for count in shots:
        options = {} if colour_of is None else {"colour_of": colour_of}
        counter = evaluate_episodes(predictor, episodes, read, count, ensemble, **options)
        rows.append({**labels, "ensemble": ensemble, "examples": count, **of_classes(counter, name)})
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def without_model(args, name: str, classes: Sequence[str], **labels) -> list[dict]:
    """What answers without looking at the picture reach on the same questions."""
    found = trivial_answers(*episodes_of(args, name, classes))
    return [{**labels, "answer": answer, **of_classes(counter, name)} for answer, counter in found.items()]


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
def kept(reader: RecordReader) -> Callable:
    return functools.lru_cache(160)(reader.__call__)


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
    at = args.at if kind in ("random", "fixed") else None
    load_average(model, state_of(args, kind, f"{kind}{seed}", seed, at=at)["ema"])
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
    numbers = ("mIoU", "mIoU+-", "FB-IoU", "episodes", "interval", "by class", "of things", "all")
    for row in rows:
        label = ", ".join(str(value) for key, value in row.items() if key not in numbers)
        more = f" +- {row['mIoU+-']:.2f}   FB-IoU {row['FB-IoU']:6.2f}" if "mIoU+-" in row else ""
        print(f"{label:78} mIoU {row['mIoU']:6.2f}{more}")


if __name__ == "__main__":
    main()
