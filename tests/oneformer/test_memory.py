"""What a process that segments holds in memory, asked of the system."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import run

# The last is timm's RegNet.
CONFIGS = [
    "ade20k/oneformer_r50",
    "ade20k/oneformer_swin_t",
    "ade20k/oneformer_convnext_l",
    "ade20k/oneformer_dinat_l",
    "facade/oneformer_compact",
]
# Bytes of a model's parameters, those that Linux has given memory and all of them.
TOUCHED = """
import mmap
import numpy as np
from detectron2.modeling import build_model
import oneformer.modeling
from oneformer.loading import build_file_config
from segcore.checkpoint import Uninitialized

def present(weight):
    first = -(-weight.data_ptr() // mmap.PAGESIZE)   # whole pages: the first and the last have neighbours
    count = max(0, (weight.data_ptr() + weight.nbytes) // mmap.PAGESIZE - first)
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(first * 8)
        entries = np.frombuffer(pages.read(count * 8), np.uint64)
    return int((entries >> np.uint64(63)).sum()) * mmap.PAGESIZE

models = []
for config in CONFIGS:
    cfg = build_file_config(f"configs/{config}.yaml")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.IS_TRAIN", False, "MODEL.TIMM.PRETRAINED", False])
    with Uninitialized():
        models.append(build_model(cfg))   # kept: the next must not get its memory
    weights = list(models[-1].parameters())
    print(sum(map(present, weights)), sum(weight.nbytes for weight in weights))
"""


@pytest.mark.skipif(not Path("/proc/self/pagemap").exists(), reason="only Linux tells")
def test_a_model_built_for_a_load_touches_no_memory():
    done = run(f"CONFIGS = {CONFIGS}\n{TOUCHED}")
    assert done.returncode == 0, done.stderr
    for config, line in zip(CONFIGS, done.stdout.splitlines(), strict=True):
        touched, size = map(int, line.split())
        # Small ones lie in memory that others have used before.
        assert touched < 2**22 < size, f"{config}: {touched} of {size} bytes"


def test_a_predictor_imports_nothing_that_it_has_no_use_for():
    """timm loads all of its models: 30 MB and a second, for the backbones that are made of it. Nor training's parts."""
    unneeded = ("timm", "transformers", "segcore.engine")
    done = run(f"import sys, oneformer.predictor; print([name for name in {unneeded} if name in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr or done.stdout
