"""What a user would pick instead, as Detectron2 meta-architectures that take the same mapper and evaluators:
Mask2Former of `transformers` and Detectron2's Panoptic-FPN, each with the same timm backbone from scratch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import FPN, META_ARCH_REGISTRY, PanopticFPN, build_proposal_generator, build_roi_heads
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.meta_arch.panoptic_fpn import combine_semantic_and_instance_outputs
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.postprocessing import detector_postprocess, sem_seg_postprocess
from detectron2.structures import BitMasks, ImageList, Instances
from torch import Tensor, nn
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, TimmBackboneConfig

from oneformer.modeling.backbone import build_oneformer_backbone
from oneformer.modeling.backbone.stages import TIMM_PREFIX
from oneformer.modeling.mask_resize import MaskResizer
from oneformer.modeling.postprocess import instance_segmentation, panoptic_segmentation, semantic_segmentation

SMALL_STUFF = 1024   # pixels: Detectron2's 4096 for pictures of 640 x 480, at our 416 x 312 and less


def _targets(x: dict) -> tuple[Tensor, Tensor]:
    """(n,) classes and (n, H, W) bool masks of a training input."""
    return x["instances"].gt_classes, x["instances"].gt_masks.tensor


@META_ARCH_REGISTRY.register()
class HuggingFaceMask2Former(nn.Module):
    """`transformers.Mask2FormerForUniversalSegmentation` from scratch, its sizes those of the config."""

    @configurable
    def __init__(
        self,
        *,
        model: nn.Module,
        things: Sequence[int],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        thresholds: tuple[float, float],
        max_instances: int,
    ):
        """`thresholds`: of object score and overlap, as in OneFormer's panoptic rule."""
        super().__init__()
        self.model, self.things, self.max_instances = model, frozenset(things), max_instances
        self.object_threshold, self.overlap_threshold = thresholds
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg):
        metadata = MetadataCatalog.get(cfg.DATASETS.CLASSES or cfg.DATASETS.TEST[0])
        return {
            "model": Mask2FormerForUniversalSegmentation(build_mask2former_config(cfg)),
            "things": metadata.thing_dataset_id_to_contiguous_id.values(),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "thresholds": (cfg.MODEL.TEST.OBJECT_MASK_THRESHOLD, cfg.MODEL.TEST.OVERLAP_THRESHOLD),
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]):
        images = [(x["image"].to(self.device) - self.pixel_mean) / self.pixel_std for x in batched_inputs]
        images = ImageList.from_tensors(images, 32)
        return self.losses(batched_inputs, images) if self.training else self.inference(batched_inputs, images)

    def losses(self, batched_inputs: list[dict], images: ImageList) -> dict[str, Tensor]:
        """Its own criterion, as one number."""
        classes, masks = zip(*(_targets(x) for x in batched_inputs), strict=True)
        height, width = images.tensor.shape[-2:]
        padded = [nn.functional.pad(m, (0, width - m.shape[2], 0, height - m.shape[1])) for m in masks]
        output = self.model(
            pixel_values=images.tensor,
            mask_labels=[m.to(self.device, torch.float32) for m in padded],
            class_labels=[c.to(self.device) for c in classes],
        )
        return {"loss_mask2former": output.loss.sum()}

    def inference(self, batched_inputs: list[dict], images: ImageList) -> list[dict]:
        """One decoding serves the three tasks, post-processed as OneFormer's is."""
        output = self.model(pixel_values=images.tensor)
        padded = tuple(images.tensor.shape[-2:])
        return [
            self._results(x, classes, masks, padded, tuple(size))
            for x, classes, masks, size in zip(
                batched_inputs,
                output.class_queries_logits,
                output.masks_queries_logits,
                images.image_sizes,
                strict=True,
            )
        ]

    def _results(self, x: dict, classes: Tensor, masks: Tensor, padded, size) -> dict:
        resize = MaskResizer(padded, size, (x.get("height", size[0]), x.get("width", size[1])))
        return {
            "sem_seg": semantic_segmentation(classes, masks, resize),
            "panoptic_seg": panoptic_segmentation(
                classes,
                masks,
                resize,
                thing_classes=self.things,
                object_threshold=self.object_threshold,
                overlap_threshold=self.overlap_threshold,
            ),
            "instances": instance_segmentation(
                classes, masks, resize, max_instances=self.max_instances, thing_classes=self.things
            ),
        }


def build_mask2former_config(cfg) -> Mask2FormerConfig:
    """As large as the OneFormer of the config; it has no text, so no queries for contextual tokens."""
    model, head = cfg.MODEL.ONE_FORMER, cfg.MODEL.SEM_SEG_HEAD
    backbone = TimmBackboneConfig(
        backbone=cfg.MODEL.BACKBONE.NAME.removeprefix(TIMM_PREFIX), out_indices=[1, 2, 3, 4]
    )
    return Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=head.CONVS_DIM,
        mask_feature_size=head.MASK_DIM,
        hidden_dim=model.HIDDEN_DIM,
        encoder_feedforward_dim=head.TRANSFORMER_ENC_DIM_FEEDFORWARD,
        encoder_layers=head.TRANSFORMER_ENC_LAYERS,
        decoder_layers=model.DEC_LAYERS,
        num_attention_heads=model.NHEADS,
        dim_feedforward=model.DIM_FEEDFORWARD,
        num_queries=model.NUM_OBJECT_QUERIES - cfg.MODEL.TEXT_ENCODER.N_CTX,
        train_num_points=model.TRAIN_NUM_POINTS,
        num_labels=head.NUM_CLASSES,
    )


@META_ARCH_REGISTRY.register()
class TimmPanopticFPN(PanopticFPN):
    """Detectron2's Panoptic-FPN. Its semantic branch learns every class, so that mIoU can be measured; the
    panoptic map takes stuff from there and things from the detector, by Detectron2's own rule."""

    @configurable
    def __init__(self, *, things: Sequence[int], **parts):
        super().__init__(**parts)
        self.things = list(things)

    @classmethod
    def from_config(cls, cfg):
        metadata = MetadataCatalog.get(cfg.DATASETS.CLASSES or cfg.DATASETS.TEST[0])
        things = sorted(metadata.thing_dataset_id_to_contiguous_id.values())
        body = build_oneformer_backbone(cfg)
        cfg = _detectron2_config(cfg, len(things))
        backbone = FPN(
            body,
            body.output_shape(),
            cfg.MODEL.FPN.OUT_CHANNELS,
            norm="GN",
            top_block=LastLevelMaxPool(),
        )
        shapes = backbone.output_shape()
        return {
            "things": things,
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "roi_heads": build_roi_heads(cfg, shapes),
            "sem_seg_head": SemSegFPNHead(cfg, shapes),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "combine_stuff_area_thresh": SMALL_STUFF,
        }

    def forward(self, batched_inputs: list[dict]):
        if not self.training:
            return self.inference(batched_inputs)
        return super().forward([self._training_input(x) for x in batched_inputs])

    def _training_input(self, x: dict) -> dict:
        """Boxes and masks of the things alone, counted from 0 as the detector does."""
        classes, masks = _targets(x)
        place = torch.full((int(max(self.things)) + 1,), -1)
        place[self.things] = torch.arange(len(self.things))
        kept = [i for i, c in enumerate(classes.tolist()) if c in self.things and masks[i].any()]
        bitmasks = BitMasks(masks[kept])
        instances = Instances(
            masks.shape[1:],
            gt_classes=place[classes[kept]],
            gt_masks=bitmasks,
            gt_boxes=bitmasks.get_bounding_boxes(),
        )
        return {**x, "instances": instances, "sem_seg": x["sem_seg"].long()}

    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        detected, scores = super().inference(batched_inputs, do_postprocess=False)
        results = []
        for x, instances, sem_seg in zip(batched_inputs, detected, scores, strict=True):
            size = tuple(x["image"].shape[-2:])
            output = x.get("height", size[0]), x.get("width", size[1])
            sem_seg = sem_seg_postprocess(sem_seg, size, *output)
            instances = detector_postprocess(instances, *output)
            instances.pred_classes = torch.tensor(self.things)[instances.pred_classes]
            results.append(
                {"sem_seg": sem_seg, "instances": instances, "panoptic_seg": self._panoptic(instances, sem_seg)}
            )
        return results

    def _panoptic(self, instances: Instances, sem_seg: Tensor) -> tuple[Tensor, list[dict]]:
        labels = sem_seg.argmax(0) + 1                              # 0 is Detectron2's "some thing"
        labels[torch.isin(labels, torch.tensor(self.things) + 1)] = 0
        ids, segments = combine_semantic_and_instance_outputs(
            instances,
            labels,
            self.combine_overlap_thresh,
            self.combine_stuff_area_thresh,
            self.combine_instances_score_thresh,
        )
        for segment in segments:
            segment["category_id"] -= 0 if segment["isthing"] else 1
        return ids, segments


def _detectron2_config(cfg, num_things: int):
    """The config with the keys that Detectron2's heads read; widths as in OneFormer's."""
    cfg = cfg.clone()
    cfg.defrost()
    levels = ["p2", "p3", "p4", "p5"]
    head, width = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
    head.IN_FEATURES = levels
    cfg.MODEL.FPN.OUT_CHANNELS = width
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8], [16], [32], [64], [128]]   # small pictures
    cfg.MODEL.RPN.IN_FEATURES = [*levels, "p6"]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN, cfg.MODEL.RPN.PRE_NMS_TOPK_TEST = 1000, 500
    cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 500, 300
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = levels
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_things
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 128
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 2, 2 * width
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 7
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV, cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 4, width
    cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION = 14
    cfg.MODEL.MASK_ON = True
    return cfg
