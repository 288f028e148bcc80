"""The weights that training from scratch begins with."""

from __future__ import annotations

import torch
from torch import nn

from seggpt.modeling.attention import Attention

TOKENS = ("mask_token", "segment_token_x", "segment_token_y", "type_token_cls", "type_token_ins")


@torch.no_grad()
def initialise_plain(model: nn.Module) -> None:
    """As the released model was: every linear layer normal with deviation 0.02, cut off at 2."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    _initialise_tables(model)


@torch.no_grad()
def initialise_matching(model: nn.Module) -> None:
    """Linear layers keep the variance of what goes through them, and keys start equal to queries.

    Tokens then attend to tokens like themselves from the first step on. With the plain start a small model
    must first find out that the example's colours belong to what looks alike: it stays at the mean colour for
    thousands of steps (the idea is that of mimetic initialisation, arXiv:2305.09828).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, Attention):
            query, key, _ = module.qkv.weight.chunk(3)
            key.copy_(query)
    _initialise_tables(model)


def _initialise_tables(model: nn.Module) -> None:
    nn.init.trunc_normal_(model.pos_embed, std=0.02)
    for name in TOKENS:
        nn.init.normal_(getattr(model, name), std=0.02)


INITIALISATIONS = {"plain": initialise_plain, "matching": initialise_matching}
