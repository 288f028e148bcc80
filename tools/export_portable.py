"""Pack a trained OneFormer or SegGPT into one file that its demo runs without a config.

python tools/export_portable.py --config-file configs/facade/oneformer_compact.yaml \
    --weights output/facade/model_final.pth --terms "research use only, ..." --output model.safetensors
"""

from __future__ import annotations

import argparse

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model

from oneformer import add_oneformer_config
from segcore.checkpoint import Checkpointer, save_portable
from segcore.engine.ema import load_average
from segcore.script import run_script
from seggpt import add_seggpt_config


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config_file, args.opts)
    if not cfg.DATASETS.TEST or cfg.DATASETS.TEST[0] not in DatasetCatalog:
        raise ValueError(f"DATASETS.TEST is {cfg.DATASETS.TEST}; its first set, registered, names the classes")
    model = build_model(cfg)
    rest = Checkpointer(model).load(args.weights, checkpointables=[])
    if cfg.SOLVER.EMA.ENABLED and "ema" in rest:  # what training evaluates
        load_average(model, rest["ema"])
    save_portable(
        model,
        cfg,
        args.output,
        metadata=MetadataCatalog.get(cfg.DATASETS.TEST[0]),
        terms=args.terms,
        dtype=getattr(torch, args.dtype),
        keep_float32=["task_mlp."],  # its input is raw token ids up to 49407
    )
    print(f"wrote {args.output}")


def read_config(path: str, pairs: list[str]):
    """The config of either model, for inference on a CPU."""
    seggpt = CfgNode.load_yaml_with_base(path).get("MODEL", {}).get("META_ARCHITECTURE") == "SegGPT"
    cfg = get_cfg()
    (add_seggpt_config if seggpt else add_oneformer_config)(cfg)
    cfg.merge_from_file(path)
    cfg.merge_from_list([*pairs, "MODEL.DEVICE", "cpu"])
    if "IS_TRAIN" in cfg.MODEL:
        cfg.MODEL.IS_TRAIN = False
    return cfg


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, help="the config that the weights were trained with")
    parser.add_argument("--weights", required=True, help="any format that the checkpointer reads")
    parser.add_argument("--output", required=True, help="a .safetensors file")
    parser.add_argument("--terms", required=True, help="licence or terms of the training data, in words")
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for the config")
    return parser.parse_args()


if __name__ == "__main__":
    run_script(main)
