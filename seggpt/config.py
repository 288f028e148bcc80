"""Config keys of SegGPT; the defaults are the released ViT-L.

`add_seggpt_config(cfg)` is the only place where they are declared; the functions after it read what
the predictor needs.
"""

from __future__ import annotations

import os

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from segcore.config import add_segcore_config


def add_seggpt_config(cfg: CN) -> None:
    """Add SegGPT's keys to a Detectron2 config, in place; harmless when called twice.

    Also registers what the keys can name: the meta-architecture, the mapper, the evaluation protocols, the
    built-in data sets.
    """
    from segcore.data import register_builtin

    from . import data, evaluation, modeling  # noqa: F401  (their import registers)

    register_builtin()
    evaluation.register_few_shot_sets()
    add_segcore_config(cfg)
    if "SEGGPT" in cfg.MODEL:
        return
    m = cfg.MODEL.SEGGPT = CN()
    m.IMG_SIZE = [896, 448]         # of the stitched canvas: prompt above, query below
    m.PRETRAIN_IMG_SIZE = 224       # position table: (this / PATCH_SIZE) squared, and one class position
    m.PATCH_SIZE = 16
    m.EMBED_DIM = 1024
    m.DEPTH = 24
    m.NUM_HEADS = 16
    m.MLP_RATIO = 4.0
    m.DECODER_DIM = 64
    m.MERGE_BLOCK = 2               # image and target streams are averaged after this block
    m.OUT_BLOCKS = [5, 11, 17, 23]  # whose outputs the decoder reads
    m.DROP_PATH_RATE = 0.1
    m.ATTENTION = "auto"            # a name in seggpt.modeling.attention.FORMS, or "auto"
    m.USE_CHECKPOINT = False        # activation checkpointing of the blocks, in training
    m.INIT = "plain"                # or "matching", for small models from scratch
    m.LOSS_BETA = 0.01              # smooth L1 turns from square to line here (normalised colours)
    # In-context tuning, META_ARCHITECTURE "SegGPTTuner": of which network, whether the task is by instance, and the
    # levels per channel of the classes' palette (0: as few as suffice; Painter has 7 for COCO).
    m.TUNING = CN({"NETWORK": "", "INSTANCE": False, "LEVELS": 0})
    _add_episodes(cfg)
    _add_evaluation(cfg)


def _add_episodes(cfg: CN) -> None:
    """How training episodes are made. "Paper": SegGPT's; "Painter": its training code; else our choice, and why."""
    cfg.INPUT.DATASET_MAPPER_NAME = "seggpt_episode"
    cfg.INPUT.FORMAT = "RGB"
    e = cfg.INPUT.EPISODES = CN()
    # One value for each entry of DATASETS.TRAIN, or one for all.
    e.INSTANCE_PROB = [0.0]     # of an episode by instance (two views of one picture; paper), else by category
    e.THINGS_ONLY = [False]     # by category: stuff counts as background
    e.SAME_IMAGE_PROB = 0.5     # by category: the context is another view of the picture itself (paper)
    e.CROP_SCALE = [0.3, 1.0]   # share of a picture's area that a view shows (Painter)
    e.CROP_RATIO = [0.75, 1.3333333]   # its width / height (Painter)
    e.FLIP_PROB = 0.5           # (Painter)
    e.JITTER = [0.4, 0.4, 0.2, 0.1]    # brightness, contrast, saturation, hue, of the picture alone (Painter)
    e.JITTER_PROB = 0.8         # (Painter)
    # Mix-context: each half is a crop of four views in a square. The paper does it "with several images" and
    # does not say how often; half of the time keeps as many plain pairs, which is what inference shows.
    e.MIX_PROB = 0.5
    e.STITCH_CROP_PROB = 0.9    # block masks by category: crop the stitched canvas as a whole (Painter)
    e.STITCH_CROP_RATIO = [0.3, 0.7]   # width / height of that crop (Painter)
    # Painter hides the query's half in a tenth of the episodes. That is the mask of inference, so we take
    # more of it; the rest are block masks, which teach to paint from what is near.
    e.HALF_MASK_PROB = 0.3
    e.MASK_RATIO = 0.5          # of all patches of the canvas, in block masks (Painter's code; 784 of 1568)
    e.MAX_LABELS = 20           # kept at most; more colours than that are hard to keep apart
    e.MIN_PIXELS = 100          # of a kept label in each half (Painter's least foreground)
    e.TRIES = 10                # other views or contexts before an episode is given up as empty
    # Colours nearer than this (sum over RGB) to each other or to black read as the same in a painting.
    e.COLOUR_DISTANCE = 60
    e.KEEP_RECORDS = 0          # decoded records that each loader worker keeps; for small sets
    e.RANDOM_COLOURS = True     # False: a class's own fixed colour, for tuned prompts and for comparison


def _add_evaluation(cfg: CN) -> None:
    cfg.TEST.PROTOCOL = "few_shot"
    f = cfg.TEST.FEW_SHOT = CN()
    # Per data set or fold (HSNet's harness, which the paper's baselines use); 0: every picture of every class is the
    # question once (FSS-1000's protocol).
    f.EPISODES = 1000
    f.SHOTS = [1, 5]            # examples; the paper's "few-shot" is not given a number, its baselines' is 5
    f.SEED = 0                  # of the list of episodes
    f.ENSEMBLE = "feature"      # or "spatial"
    f.CLASSES = []              # names of those asked for; empty: the set's own fold, or all with enough pictures
    f.THINGS_ONLY = False       # leave stuff classes out
    # "semantic_by_examples": the set that gives the examples ("": the first of DATASETS.TRAIN), examples per
    # class, and the seed that draws them (the paper takes the best of 1000, 2000, 3000, 4000).
    cfg.TEST.EXAMPLES = CN({"DATASET": "", "SHOTS": 1, "SEED": 1000})
    # "panoptic_tuned": files of two tuned prompts, and Painter's merging: least score of an object, the share of
    # it that better ones may cover, and the least area of stuff.
    cfg.TEST.PANOPTIC = CN(
        {"SEMANTIC_PROMPT": "", "INSTANCE_PROMPT": "", "SCORE": 0.55, "OVERLAP": 0.5, "STUFF_AREA": 8192}
    )


def read_config(path: str | os.PathLike) -> CN:
    """A SegGPT config from its YAML file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it has unknown keys or is another model's.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no config file {path!r}")
    cfg = get_cfg()
    add_seggpt_config(cfg)
    try:
        cfg.merge_from_file(path)
    except KeyError as error:
        raise ValueError(f"{path} is not a SegGPT config: {error.args[0]}") from error
    check_is_seggpt(cfg, path)
    return cfg


def check_is_seggpt(cfg: CN, source: str | os.PathLike) -> None:
    """Raise ValueError if a config is another model's."""
    if cfg.MODEL.META_ARCHITECTURE != "SegGPT":
        raise ValueError(f"{os.fspath(source)} is for {cfg.MODEL.META_ARCHITECTURE}, not for SegGPT")


def configured_weights(cfg: CN) -> str:
    """MODEL.WEIGHTS, "" if there are none."""
    return cfg.MODEL.WEIGHTS
