"""SegGPT's two arguments on photographs: random colours, and examples that add up in the features.

    python benchmarks/seggpt_claims.py colours      # two equal trainings, random colours against fixed ones
    python benchmarks/seggpt_claims.py ensembles    # 1, 2, 4, 8 examples: feature and spatial ensemble

Reads labelmefacade_panoptic, dsb2018_nuclei, cwfid_panoptic, camvid and coco_tiny_instances under
$DETECTRON2_DATASETS. A training whose weights are not there yet is run first (configs/seggpt/claims_*.yaml, a
quarter of an hour each on two cores). Prints a table, writes one JSON file. "+-" is half of the 95 % interval
over other lists of episodes; what another training would give, several seeds show.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
# This file's folder would hide the package of the same name.
sys.path[0] = str(REPO)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from detectron2.config import CfgNode, get_cfg  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402

from segcore.config import resolve_datasets  # noqa: E402
from segcore.engine.ema import load_average  # noqa: E402
from seggpt import SegGPTPredictor, add_seggpt_config  # noqa: E402
from seggpt.data.colouring import fixed_colours, random_colours  # noqa: E402
from seggpt.evaluation.counts import OverlapCounter  # noqa: E402
from seggpt.evaluation.episodes import Episode, draw_episodes, members_by_category  # noqa: E402
from seggpt.evaluation.few_shot import (  # noqa: E402
    RecordReader,
    class_names,
    evaluate_episodes,
    trivial_answers,
)
from seggpt.modeling import SegGPT  # noqa: E402

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
    sets = load_config(SETS)
    resolve_datasets(sets)
    rows = colours(args) if args.claim == "colours" else ensembles(args)
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
    p.add_argument("claim", choices=["colours", "ensembles"])
    p.add_argument("--runs", default="output/seggpt_claims", help="folder of the trainings")
    p.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings of `colours`")
    p.add_argument("--episodes", type=int, default=400)
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
        "drawn scenes alone (seggpt_mini)": SegGPTPredictor(weights=REPO / "demo/weights/seggpt_mini.safetensors"),
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
    config, folder = f"configs/seggpt/claims_{kind}.yaml", Path(args.runs) / f"{kind}{seed}"
    cfg = load_config(config)
    resolve_datasets(cfg)
    weights = folder / "model_final.pth"
    if not weights.is_file():
        command = [sys.executable, "train_net.py", "--config-file", config, "--resume",
                   "SEED", str(seed), "OUTPUT_DIR", str(folder.resolve())]
        subprocess.run(command, cwd=REPO, check=True)
    model = SegGPT(cfg)
    load_average(model, torch.load(weights, map_location="cpu", weights_only=True)["ema"])
    return cfg, SegGPTPredictor(model=model)


def load_config(path: str) -> CfgNode:
    cfg = get_cfg()
    add_seggpt_config(cfg)
    cfg.merge_from_file(str(REPO / path))
    return cfg


def print_table(rows: list[dict]) -> None:
    for row in rows:
        label = ", ".join(str(v) for k, v in row.items() if k not in ("interval", "by class", "mIoU", "mIoU+-",
                                                                       "FB-IoU", "episodes"))
        print(f"{label:78} mIoU {row['mIoU']:6.2f} +- {row['mIoU+-']:.2f}   FB-IoU {row['FB-IoU']:6.2f}")


if __name__ == "__main__":
    main()
