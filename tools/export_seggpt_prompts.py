"""Write the prompt that in-context tuning learnt as a file for SegGPTPredictor.load_prompts and demo/seggpt_demo.py.

python tools/export_seggpt_prompts.py --config-file configs/seggpt/tune_ade20k.yaml \
    --weights output/tune/model_final.pth --output ade20k_prompt.safetensors [KEY VALUE ...]
"""

from __future__ import annotations

import argparse

import numpy as np
from detectron2.config import get_cfg
from detectron2.data import MetadataCatalog

from segcore.checkpoint import Checkpointer
from segcore.script import run_script
from seggpt import add_seggpt_config
from seggpt.data.colouring import fixed_colours
from seggpt.evaluation.few_shot import class_names
from seggpt.modeling import SegGPTTuner
from seggpt.tuning import tuned_prompts


def main() -> None:
    args = parse_args()
    cfg = get_cfg()
    add_seggpt_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    tuner = SegGPTTuner(cfg).eval()
    Checkpointer(tuner).load(args.weights, checkpointables=[])
    names = class_names(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]))
    tuning = cfg.MODEL.SEGGPT.TUNING
    colours = np.zeros((0, 3), np.uint8) if tuning.INSTANCE else fixed_colours(len(names), tuning.LEVELS)
    tuned_prompts(tuner, colours).save(args.output)
    meaning = "it paints by place" if tuning.INSTANCE else f"label i is class i - 1 of: {', '.join(names)}"
    print(f"wrote {args.output}; {meaning}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="the config that the prompt was tuned with")
    parser.add_argument("--weights", required=True, help="the tuning's checkpoint")
    parser.add_argument("--output", required=True, help="a .safetensors file")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for the config")
    return parser.parse_args()


if __name__ == "__main__":
    run_script(main)
