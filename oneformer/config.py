"""Config keys of OneFormer; the defaults are what all released configs share.

`add_oneformer_config(cfg)` is the only place where they are declared.
"""

from __future__ import annotations

from detectron2.config import CfgNode as CN

from segcore.config import add_segcore_config


def add_oneformer_config(cfg: CN) -> None:
    """Add OneFormer's keys to a Detectron2 config, in place; harmless when called twice.

    Also registers what the keys can name: the meta-architecture, the mapper, the built-in data sets.
    """
    from segcore.data import register_builtin

    from . import data, inference, modeling  # noqa: F401  (their import registers)

    register_builtin()
    add_segcore_config(cfg)
    if "ONE_FORMER" in cfg.MODEL:
        return
    _add_model(cfg)
    _add_backbones(cfg)
    _add_input(cfg)


def _add_model(cfg: CN) -> None:
    cfg.MODEL.IS_TRAIN = True    # False builds no text branch; the engine clears it for evaluation

    m = cfg.MODEL.ONE_FORMER = CN()
    m.HIDDEN_DIM = 256
    m.NHEADS = 8
    m.DIM_FEEDFORWARD = 2048
    m.DROPOUT = 0.1              # of the query-initialising decoder; the masked decoder has none
    m.NUM_OBJECT_QUERIES = 150   # the task token is the last of them
    m.CLASS_DEC_LAYERS = 2       # query initialisation
    m.DEC_LAYERS = 10            # predictions: one before the first of DEC_LAYERS - 1 layers, one after each
    m.USE_TASK_NORM = True
    m.SIZE_DIVISIBILITY = 32
    # Run images of different padded sizes apart, so that an image's result does not depend on the
    # padding that its batch mates bring. The released weights were trained and evaluated without.
    m.BATCH_INVARIANT = False
    m.CHECKPOINT_ENCODER = False  # activation checkpointing of the pixel decoder's layers
    m.CHECKPOINT_DECODER = False  # and of the masked decoder's

    m.DEEP_SUPERVISION = True
    m.NO_OBJECT_WEIGHT = 0.1
    m.CLASS_WEIGHT = 2.0
    m.MASK_WEIGHT = 5.0
    m.DICE_WEIGHT = 5.0
    m.CONTRASTIVE_WEIGHT = 0.5
    m.CONTRASTIVE_TEMPERATURE = 0.07
    m.TRAIN_NUM_POINTS = 12544
    m.OVERSAMPLE_RATIO = 3.0
    m.IMPORTANCE_SAMPLE_RATIO = 0.75

    head = cfg.MODEL.SEM_SEG_HEAD
    head.NAME = "OneFormerHead"
    head.PIXEL_DECODER_NAME = "MSDeformAttnPixelDecoder"
    head.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    head.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES = ["res3", "res4", "res5"]
    head.COMMON_STRIDE = 4
    head.CONVS_DIM = 256
    head.MASK_DIM = 256
    head.NORM = "GN"
    head.NUM_CLASSES = 150
    head.IGNORE_VALUE = 255
    head.TRANSFORMER_ENC_LAYERS = 6
    head.TRANSFORMER_ENC_DIM_FEEDFORWARD = 1024
    head.TRANSFORMER_ENC_NHEADS = 8
    head.TRANSFORMER_ENC_POINTS = 4
    head.TRANSFORMER_ENC_DROPOUT = 0.1

    text = cfg.MODEL.TEXT_ENCODER = CN()
    text.WIDTH = 256
    text.CONTEXT_LENGTH = 77
    text.NUM_LAYERS = 6
    text.VOCAB_SIZE = 49408
    text.PROJ_NUM_LAYERS = 2
    text.N_CTX = 16              # learned contextual tokens, counted in NUM_OBJECT_QUERIES

    test = cfg.MODEL.TEST = CN()
    test.OBJECT_MASK_THRESHOLD = 0.8
    test.OVERLAP_THRESHOLD = 0.8
    test.WINDOW = CN({"SIZE": [], "OVERLAP": 0.25})   # [height, width]: look through windows of the input
    test.THINGS_ONLY_INSTANCES = True   # top-k of `cfg.TEST.DETECTIONS_PER_IMAGE`, then only things are kept


def _add_backbones(cfg: CN) -> None:
    # MODEL.BACKBONE.NAME may also be "timm:<name>", any timm model with features at strides 4..32.
    cfg.MODEL.TIMM = CN({"PRETRAINED": False, "DROP_PATH_RATE": 0.0})

    swin = cfg.MODEL.SWIN = CN()
    swin.PRETRAIN_IMG_SIZE = 224
    swin.PATCH_SIZE = 4
    swin.EMBED_DIM = 96
    swin.DEPTHS = [2, 2, 6, 2]
    swin.NUM_HEADS = [3, 6, 12, 24]
    swin.WINDOW_SIZE = 7
    swin.MLP_RATIO = 4.0
    swin.QKV_BIAS = True
    swin.DROP_PATH_RATE = 0.3
    swin.APE = False
    swin.PATCH_NORM = True
    swin.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    swin.USE_CHECKPOINT = False

    convnext = cfg.MODEL.CONVNEXT = CN()
    convnext.DEPTHS = [3, 3, 27, 3]
    convnext.DIMS = [192, 384, 768, 1536]
    convnext.DROP_PATH_RATE = 0.4
    convnext.LSIT = 1.0          # initial layer scale (the official key's name)
    convnext.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    convnext.USE_CHECKPOINT = False

    dinat = cfg.MODEL.DiNAT = CN()
    dinat.EMBED_DIM = 192
    dinat.DEPTHS = [3, 4, 18, 5]
    dinat.NUM_HEADS = [6, 12, 24, 48]
    dinat.KERNEL_SIZE = 11
    dinat.DILATIONS = [
        [1, 20, 1],
        [1, 5, 1, 10],
        [1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5],
        [1, 2, 1, 2, 1],
    ]
    dinat.MLP_RATIO = 2.0
    dinat.DROP_PATH_RATE = 0.3
    dinat.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    dinat.USE_CHECKPOINT = False


def _add_input(cfg: CN) -> None:
    cfg.INPUT.DATASET_MAPPER_NAME = "oneformer_panoptic"
    cfg.INPUT.TASK_PROB = CN({"PANOPTIC": 1 / 3, "INSTANCE": 1 / 3, "SEMANTIC": 1 / 3})
    cfg.INPUT.RECIPE = "resize_crop"      # or "lsj"; a name in oneformer.data.augmentation.RECIPES
    cfg.INPUT.COLOR_AUG_SSD = False       # resize_crop
    cfg.INPUT.SIZE_DIVISIBILITY = -1      # resize_crop: pad the training image to this size; -1 none
    cfg.INPUT.IMAGE_SIZE = 1024           # lsj
    cfg.INPUT.MIN_SCALE = 0.1             # lsj
    cfg.INPUT.MAX_SCALE = 2.0             # lsj
    cfg.INPUT.TASK_SEQ_LEN = 77
    cfg.INPUT.MAX_SEQ_LEN = 77
    cfg.INPUT.FORMAT = "RGB"
