"""The OneFormer meta-architecture (arXiv:2211.06220, fig. 2).

Shapes:  B images, N = images x tasks, Q queries, K classes (without "no object"),
         H, W size of the padded batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import Tensor, nn

from segcore.masks import LayeredMasks
from segcore.ops import speed_up_linears
from segcore.registry import register_once

from ..tasks import INSTANCE, PANOPTIC, SEMANTIC, TASK_TOKEN_IDS, asked_tasks
from .backbone import build_oneformer_backbone
from .criterion import Criterion, Target
from .head import OneFormerHead
from .layers import MLP
from .mask_resize import MaskResizer
from .matcher import HungarianMatcher
from .postprocess import instance_segmentation, panoptic_segmentation, semantic_labels, semantic_segmentation
from .text_encoder import TextBranch, TextEncoder

OUTSIDE_LOGIT = -100.0   # mask logit of canvas outside an image's own padding: certainly not


@dataclass(frozen=True)
class _Decoded:
    """One image decoded for one task; sizes are (height, width), `image` its place in the batch."""

    image: int
    task: str
    class_logits: Tensor
    mask_logits: Tensor
    padded_size: tuple[int, int]
    image_size: tuple[int, int]


@register_once(META_ARCH_REGISTRY)
class OneFormer(nn.Module):
    """One model for panoptic, instance and semantic segmentation, told which by the input's task."""

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: OneFormerHead,
        task_mlp: MLP,
        text_encoder: TextEncoder | None,
        text_projector: MLP | None,
        prompt_ctx: nn.Embedding | None,
        criterion: Criterion,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
        batch_invariant: bool,
        deep_supervision: bool,
        thing_classes: Collection[int],
        instance_class_map: Mapping[int, int] | None,
        things_only_instances: bool,
        object_threshold: float,
        overlap_threshold: float,
        max_instances: int,
    ):
        """
        Args:
            text_encoder, text_projector, prompt_ctx: the text branch; None for a model that only infers.
            batch_invariant: run images of different padded sizes apart, so that no image sees the
                padding that a larger batch mate brings.
            thing_classes: class indices that are things.
            instance_class_map: class index -> index of the instance benchmark, where that numbers apart.
            things_only_instances: keep only things among the instances.
        """
        super().__init__()
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.task_mlp = task_mlp
        if text_encoder is not None:
            self.text_encoder, self.text_projector, self.prompt_ctx = text_encoder, text_projector, prompt_ctx
        self.criterion = criterion
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.size_divisibility = size_divisibility
        self.batch_invariant = batch_invariant
        self.deep_supervision = deep_supervision
        self.thing_classes = frozenset(thing_classes)
        self.instance_class_map = dict(instance_class_map) if instance_class_map is not None else None
        self.things_only_instances = things_only_instances
        self.object_threshold, self.overlap_threshold = object_threshold, overlap_threshold
        self.max_instances = max_instances
        speed_up_linears(self)

    @classmethod
    def from_config(cls, cfg):
        backbone = build_oneformer_backbone(cfg)
        model, test = cfg.MODEL.ONE_FORMER, cfg.MODEL.TEST
        names = [cfg.DATASETS.CLASSES] if cfg.DATASETS.CLASSES else list(cfg.DATASETS.TEST)
        metadata = MetadataCatalog.get(names[0]) if names else None
        things, class_map = _thing_classes(metadata, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
        return {
            "backbone": backbone,
            "sem_seg_head": OneFormerHead(cfg, backbone.output_shape()),
            "task_mlp": MLP(cfg.INPUT.TASK_SEQ_LEN, model.HIDDEN_DIM, model.HIDDEN_DIM, 2),
            **_build_text_branch(cfg),
            "criterion": _build_criterion(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": max(model.SIZE_DIVISIBILITY, backbone.size_divisibility),
            "batch_invariant": model.BATCH_INVARIANT,
            "deep_supervision": model.DEEP_SUPERVISION,
            "thing_classes": things,
            "instance_class_map": class_map,
            "things_only_instances": test.THINGS_ONLY_INSTANCES,
            "object_threshold": test.OBJECT_MASK_THRESHOLD,
            "overlap_threshold": test.OVERLAP_THRESHOLD,
            "max_instances": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> list[dict] | dict[str, Tensor]:
        """Segment a batch, or in training mode return its losses.

        Args:
            batched_inputs: one dict per image. "image": (3, h, w) RGB, 0..255, any dtype.
                "task": "panoptic", "instance", "semantic", "all", or a sequence of the three.
                Inference: "height", "width" of the wanted result (default: the image's own);
                "semantic_labels" True: the class of every pixel, (H, W), under "semantic_labels"
                in place of all classes' scores, which take many times the memory;
                "least_score": instances that score less are left out.
                Training: "instances" with gt_classes (M,) and gt_masks (M, h, w), a tensor, Detectron2's
                BitMasks or `LayeredMasks`, and
                "text_tokens" (U, T) int64, "text_index" (N,) int64 as the mapper makes them.

        Returns:
            Inference: per image the asked tasks' results under "panoptic_seg", "instances",
            "sem_seg" (see `postprocess`). Training: weighted losses by name.

        Raises:
            ValueError: for an image of another shape, an unknown task, or inputs without targets.
        """
        return self.losses(batched_inputs) if self.training else self.inference(batched_inputs)

    def full_precision_parts(self) -> list[nn.Module]:
        """What stays in float32 when products are rounded: the task token, whose ids reach 49407; where and how
        much deformable attention samples; and what works on queries alone, which costs little."""
        head = self.sem_seg_head
        attentions = [layer.self_attn for layer in head.pixel_decoder.transformer.encoder.layers]
        sampling = [part for a in attentions for part in (a.sampling_offsets, a.attention_weights)]
        decoder = head.predictor
        of_queries = [
            decoder.class_embed,
            decoder.mask_embed,
            decoder.transformer_self_attention_layers,
            decoder.transformer_ffn_layers,
        ]
        return [self.task_mlp, *sampling, *of_queries]

    # ---- inputs -------------------------------------------------------------------------------

    def _prepare_images(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise, then pad right and bottom with zeros to one size."""
        images = []
        for x in batched_inputs:
            image = x["image"]
            if image.dim() != 3 or image.shape[0] != 3 or 0 in image.shape:
                raise ValueError(
                    f"an image must be (3, height, width) with pixels, got {tuple(image.shape)}"
                    f" for {x.get('file_name', 'an input without file_name')}"
                )
            image = image.to(self.device, non_blocking=True)
            images.append((image - self.pixel_mean).div_(self.pixel_std))
        return ImageList.from_tensors(images, self.size_divisibility)

    def embed_tasks(self, tasks: Sequence[str]) -> Tensor:
        """(N, C) task embeddings.

        fp32 whatever the model's precision: the raw token ids reach 49407, which fp16 and bf16 round.
        """
        first, second = self.task_mlp.layers
        ids = torch.zeros(len(tasks), first.in_features)
        for row, task in zip(ids, tasks, strict=True):
            tokens = TASK_TOKEN_IDS[task]
            row[: len(tokens)] = torch.tensor(tokens, dtype=ids.dtype)
        ids = ids.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, enabled=False):
            hidden = F.relu(F.linear(ids, first.weight.float(), first.bias.float()))
            return F.linear(hidden, second.weight.float(), second.bias.float())

    # ---- inference ----------------------------------------------------------------------------

    def inference(self, batched_inputs: list[dict]) -> list[dict]:
        results: list[dict] = [{} for _ in batched_inputs]
        for decoded in self._decode_all(batched_inputs):
            x = batched_inputs[decoded.image]
            height, width = decoded.image_size
            output_size = (int(x.get("height", height)), int(x.get("width", width)))
            resize = MaskResizer(decoded.padded_size, decoded.image_size, output_size)
            result = self.postprocess(
                decoded.task,
                decoded.class_logits,
                decoded.mask_logits,
                resize,
                labels_only=x.get("semantic_labels", False),
                least_score=x.get("least_score", 0.0),
            )
            results[decoded.image].update(result)
        return results

    def predict_queries(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """Raw predictions, padding included.

        Returns:
            "pred_logits": (N, Q, K + 1) and "pred_masks": (N, Q, H / 4, W / 4), float32; one row per
            image and task: images in order, the tasks of an image in order.
        """
        rows = sorted(self._decode_all(batched_inputs), key=lambda decoded: decoded.image)
        canvas = [max(row.mask_logits.shape[d] for row in rows) for d in (1, 2)]
        masks = [
            F.pad(
                row.mask_logits,
                (0, canvas[1] - row.mask_logits.shape[2], 0, canvas[0] - row.mask_logits.shape[1]),
                value=OUTSIDE_LOGIT,
            )
            for row in rows
        ]
        logits = torch.stack([row.class_logits for row in rows])
        return {"pred_logits": logits, "pred_masks": torch.stack(masks)}

    def padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        """The (height, width) to which an image of `size` is padded when it runs alone."""
        unit = max(self.size_divisibility, 1)
        return tuple(-(-side // unit) * unit for side in size)

    def _decode_all(self, batched_inputs: list[dict]) -> Iterator[_Decoded]:
        """Backbone and pixel decoder once per image, the decoder once per image and task."""
        tasks = [asked_tasks(x) for x in batched_inputs]
        for group in self._groups(batched_inputs):
            images = self._prepare_images([batched_inputs[i] for i in group])
            padded_size, image_sizes = tuple(images.tensor.shape[-2:]), images.image_sizes
            # Task by task, not as one batch: an image then gets the same bits as when one task is asked.
            turns = []
            for turn in range(max(len(tasks[i]) for i in group)):
                rows = [row for row, i in enumerate(group) if turn < len(tasks[i])]
                turns.append((rows, [tasks[group[row]][turn] for row in rows]))
            outputs = self._decode(images.tensor, turns)
            del images
            for (rows, asked), logits in zip(turns, outputs, strict=True):
                for row, task, class_logits, mask_logits in zip(rows, asked, *logits, strict=True):
                    yield _Decoded(group[row], task, class_logits, mask_logits, padded_size, tuple(image_sizes[row]))

    def _decode(self, images: Tensor, turns: list[tuple[list[int], list[str]]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Class and mask logits of rows of a batch and their tasks, turn by turn. What a step has used up is let go
        before the next, and before the caller makes results of the last turn's logits."""
        decoder = self.sem_seg_head.predictor
        features = self.backbone(images)
        del images
        mask_features, maps = self.sem_seg_head.pixel_decoder(features)
        del features
        asked = [(rows, self.embed_tasks(names)) for rows, names in turns]
        queries = decoder.first_queries(mask_features, asked)
        memory = decoder.prepare(mask_features, maps)
        del mask_features, maps
        for turn, (rows, _) in enumerate(turns):
            output = decoder.decode(memory.select(rows), queries[turn])
            logits = output.class_logits.float(), output.mask_logits.float()
            del output
            if turn == len(turns) - 1:
                del memory
            yield logits

    def _groups(self, batched_inputs: list[dict]) -> list[list[int]]:
        """Which inputs run together: all, or those of one padded size when batch invariant."""
        if not self.batch_invariant:
            return [list(range(len(batched_inputs)))] if batched_inputs else []
        unit, groups = max(self.size_divisibility, 1), {}
        for i, x in enumerate(batched_inputs):
            groups.setdefault(tuple(-(-side // unit) for side in x["image"].shape[-2:]), []).append(i)
        return list(groups.values())

    def postprocess(
        self,
        task: str,
        class_logits: Tensor,
        mask_logits: Tensor,
        resize: MaskResizer,
        *,
        labels_only: bool = False,
        least_score: float = 0.0,
    ) -> dict:
        """One task's result of one image, as `forward` returns it; see `postprocess.py` for the arguments."""
        if task == SEMANTIC and labels_only:
            return {"semantic_labels": semantic_labels(class_logits, mask_logits, resize)}
        if task == SEMANTIC:
            return {"sem_seg": semantic_segmentation(class_logits, mask_logits, resize)}
        if task == PANOPTIC:
            result = panoptic_segmentation(
                class_logits,
                mask_logits,
                resize,
                thing_classes=self.thing_classes,
                object_threshold=self.object_threshold,
                overlap_threshold=self.overlap_threshold,
            )
            return {"panoptic_seg": result}
        assert task == INSTANCE, task
        result = instance_segmentation(
            class_logits,
            mask_logits,
            resize,
            max_instances=self.max_instances,
            thing_classes=self.thing_classes if self.things_only_instances else None,
            class_map=self.instance_class_map,
            least_score=least_score,
        )
        return {"instances": result}

    # ---- training -----------------------------------------------------------------------------

    def losses(self, batched_inputs: list[dict]) -> dict[str, Tensor]:
        """Weighted losses of a batch; see `Criterion`."""
        tasks = [asked_tasks(x) for x in batched_inputs]
        if any(len(asked) != 1 for asked in tasks):
            raise ValueError(f"a training image has exactly one task, got {tasks}")
        images = self._prepare_images(batched_inputs)
        targets = self._targets(batched_inputs)
        memory = self.sem_seg_head(self.backbone(images.tensor))
        task = self.embed_tasks([asked for (asked,) in tasks])
        output = self.sem_seg_head.predictor(memory, task, auxiliary=self.deep_supervision)
        pending = self.criterion.match(output, targets, images.tensor.shape[-2:])
        # The texts are encoded while the matching costs travel to the CPU.
        texts = self._texts(batched_inputs, output.queries.shape[1])
        return self.criterion(output, pending, texts)

    def _targets(self, batched_inputs: list[dict]) -> list[Target]:
        targets = []
        for x in batched_inputs:
            if "instances" not in x:
                name = x.get("file_name", "")
                raise ValueError(f"training input {name!r} has no 'instances' with gt_masks")
            masks = x["instances"].gt_masks
            if not isinstance(masks, LayeredMasks):
                masks = LayeredMasks.from_tensor(masks.tensor if hasattr(masks, "tensor") else masks)
            labels = x["instances"].gt_classes.to(self.device, non_blocking=True)
            targets.append(Target(labels, masks.to(self.device, non_blocking=True)))
        return targets

    def _texts(self, batched_inputs: list[dict], num_queries: int) -> Tensor | None:
        """(B, Q, C) text vectors; None when the contrastive loss has no weight."""
        if self.criterion.contrastive_weight == 0:
            return None
        if not hasattr(self, "text_encoder"):
            raise ValueError("this model was built for inference: set MODEL.IS_TRAIN True to train it")
        branch = TextBranch(self.text_encoder, self.text_projector, self.prompt_ctx)
        texts = branch([x["text_tokens"] for x in batched_inputs], [x["text_index"] for x in batched_inputs])
        if texts.shape[1] != num_queries:
            raise ValueError(
                f"{texts.shape[1]} text vectors (texts + contextual tokens) but {num_queries} queries; the "
                "mapper must make NUM_OBJECT_QUERIES - TEXT_ENCODER.N_CTX texts"
            )
        return texts


def _thing_classes(metadata, num_classes: int) -> tuple[list[int], Mapping[int, int] | None]:
    """Class indices of the things, and the numbers that the instance benchmark gives them (None: the same)."""
    if metadata is None:
        return [], None
    things = list(metadata.get("thing_dataset_id_to_contiguous_id", {}).values())
    class_map = metadata.get("instance_class_map", None)
    # A model that was trained on the things alone counts them as the benchmark does.
    if class_map is None or len(class_map) == num_classes:
        return things, None
    return list(class_map), class_map


def _build_text_branch(cfg) -> dict:
    if not cfg.MODEL.IS_TRAIN:
        return {"text_encoder": None, "text_projector": None, "prompt_ctx": None}
    text, dim = cfg.MODEL.TEXT_ENCODER, cfg.MODEL.ONE_FORMER.HIDDEN_DIM
    if text.WIDTH != dim:
        raise ValueError(
            f"MODEL.TEXT_ENCODER.WIDTH ({text.WIDTH}) must equal MODEL.ONE_FORMER.HIDDEN_DIM ({dim}): "
            "contextual tokens and projected texts are compared with the queries"
        )
    prompt_ctx = nn.Embedding(text.N_CTX, text.WIDTH)
    return {
        "text_encoder": TextEncoder(
            width=text.WIDTH,
            context_length=text.CONTEXT_LENGTH,
            num_layers=text.NUM_LAYERS,
            vocab_size=text.VOCAB_SIZE,
        ),
        "text_projector": MLP(text.WIDTH, dim, dim, text.PROJ_NUM_LAYERS),
        "prompt_ctx": prompt_ctx,
    }


def _build_criterion(cfg) -> Criterion:
    model = cfg.MODEL.ONE_FORMER
    weights = {
        "class_weight": model.CLASS_WEIGHT,
        "mask_weight": model.MASK_WEIGHT,
        "dice_weight": model.DICE_WEIGHT,
        "num_points": model.TRAIN_NUM_POINTS,
    }
    return Criterion(
        num_classes=cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
        matcher=HungarianMatcher(**weights),
        contrastive_weight=model.CONTRASTIVE_WEIGHT,
        contrastive_temperature=model.CONTRASTIVE_TEMPERATURE,
        no_object_weight=model.NO_OBJECT_WEIGHT,
        oversample_ratio=model.OVERSAMPLE_RATIO,
        importance_sample_ratio=model.IMPORTANCE_SAMPLE_RATIO,
        **weights,
    )
