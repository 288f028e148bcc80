"""Export a OneFormer as a Hugging Face folder that `transformers` loads.

python tools/export_hf.py --config-file configs/ade20k/oneformer_swin_t.yaml --weights FILE --output FOLDER
python tools/export_hf.py --weights demo/weights/FILE.safetensors --output FOLDER
"""

from __future__ import annotations

import argparse

from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

import oneformer.modeling  # noqa: F401  registers the model
from oneformer import add_oneformer_config
from oneformer.convert import HuggingFaceExporter
from segcore.checkpoint import Checkpointer, load_portable_header
from segcore.script import run_script


def main() -> None:
    args = parse_args()
    cfg = get_cfg()
    add_oneformer_config(cfg)
    classes = {}
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    else:
        config, metadata = load_portable_header(args.weights)
        cfg.merge_from_other_cfg(CfgNode.load_cfg(config))
        things = metadata.get("thing_dataset_id_to_contiguous_id", {})
        classes = {"class_names": metadata["stuff_classes"], "thing_classes": sorted(things.values())}
    cfg.merge_from_list(args.opts)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.IS_TRAIN = args.with_text
    exporter = HuggingFaceExporter(cfg, **classes)
    model = build_model(cfg)
    Checkpointer(model).load(args.weights)
    exporter.save(model, args.output, with_text=args.with_text)
    print(f"wrote {args.output}")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", help="not needed for portable weights, which hold their config")
    parser.add_argument("--weights", required=True, help="any format that the checkpointer reads")
    parser.add_argument("--output", required=True, help="the folder to write")
    parser.add_argument("--with-text", action="store_true", help="export the training-only text branch too")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs for the config")
    return parser.parse_args()


if __name__ == "__main__":
    run_script(main)
