"""What training starts from, by MODEL.WEIGHTS: nothing, MAE's encoder, Painter, SegGPT."""

from __future__ import annotations

import pytest
import torch

from segcore.checkpoint import Checkpointer
from seggpt.loading import load_weights
from tests.seggpt.small_seggpt import small_model

ENCODER = ("patch_embed.", "pos_embed", "blocks.", "norm.")


@pytest.fixture
def theirs(model) -> dict[str, torch.Tensor]:
    """A state dict with other values than a fresh model's."""
    return {key: value + 1 for key, value in model.state_dict().items()}


def mae_of(state: dict, decoder: bool) -> dict:
    """As MAE saves it: a plain ViT with a class token; in its full files a decoder of another width too."""
    kept = {k: v for k, v in state.items() if k.startswith(ENCODER) and "rel_pos" not in k}
    kept["cls_token"] = torch.ones(1, 1, 64)
    if decoder:
        kept |= {
            "mask_token": torch.ones(1, 1, 32),
            "decoder_pos_embed": torch.ones(1, 17, 32),
            "decoder_embed.weight": torch.ones(32, 64),
            "decoder_embed.bias": torch.ones(32),
            "decoder_blocks.0.attn.qkv.weight": torch.ones(96, 32),
            "decoder_pred.weight": torch.ones(768, 32),
        }
    return kept


def load(path) -> tuple[dict, dict, object]:
    """State before and after, and the report."""
    fresh = small_model()
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    checkpointer = Checkpointer(fresh)
    checkpointer.load(str(path))
    return before, fresh.state_dict(), checkpointer.last_report


@pytest.mark.parametrize("decoder", [False, True])
def test_mae_gives_the_encoder_and_nothing_else(theirs, tmp_path, decoder):
    torch.save({"model": mae_of(theirs, decoder)}, tmp_path / "mae.pth")
    before, after, report = load(tmp_path / "mae.pth")
    for key, value in after.items():
        taken = key.startswith(ENCODER) and "rel_pos" not in key
        assert torch.equal(value, theirs[key] if taken else before[key]), key
    assert report.format == "MAE encoder"
    assert "decoder_embed.weight" in report.missing and "blocks.0.attn.rel_pos_h" in report.missing
    with pytest.raises(ValueError, match="does not fit this SegGPT"):
        load_weights(small_model(), tmp_path / "mae.pth")  # to infer with, all weights are needed


def test_an_encoder_of_another_size_is_refused(theirs, tmp_path):
    state = mae_of(theirs, False)
    state["blocks.0.mlp.fc1.weight"] = torch.ones(128, 64)
    torch.save({"model": state}, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match=r"blocks.0.mlp.fc1.weight: got \(128, 64\)"):
        load(tmp_path / "mae.pth")


def test_an_encoder_with_too_few_blocks_is_refused(theirs, tmp_path):
    state = {k: v for k, v in mae_of(theirs, False).items() if not k.startswith("blocks.7.")}
    torch.save({"model": state}, tmp_path / "mae.pth")
    with pytest.raises(ValueError, match=r"blocks.7.* not in the checkpoint"):
        load(tmp_path / "mae.pth")


def test_painter_gives_all_but_the_type_tokens(theirs, tmp_path):
    torch.save({"model": {k: v for k, v in theirs.items() if "type_token" not in k}}, tmp_path / "painter.pth")
    before, after, report = load(tmp_path / "painter.pth")
    for key, value in after.items():
        assert torch.equal(value, before[key] if "type_token" in key else theirs[key]), key
    assert sorted(report.missing) == ["type_token_cls", "type_token_ins"] and report.format == "native"


def test_seggpt_gives_all(theirs, tmp_path):
    torch.save({"model": theirs}, tmp_path / "seggpt.pth")
    _, after, report = load(tmp_path / "seggpt.pth")
    assert all(torch.equal(value, theirs[key]) for key, value in after.items()) and report.is_complete


def test_nothing_gives_a_fresh_start():
    fresh = small_model()
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    Checkpointer(fresh).load("")
    assert all(torch.equal(value, before[key]) for key, value in fresh.state_dict().items())
