"""Text branch, built for training only (OneFormer, arXiv:2211.06220, sec. 3.2).

A CLIP-style causal transformer turns each string of an image's text list into
one vector; learned contextual tokens are appended after it, so that an image
has as many text vectors as it has object queries.

Shapes:  U unique strings, T token positions, W width, B images, N strings per image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import MLP, Attention


class _GELUMLP(nn.Module):
    """CLIP's MLP: the sigmoid approximation of GELU between two linear layers."""

    def __init__(self, width: int):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class _TextBlock(nn.Module):
    """Pre-norm causal transformer layer."""

    def __init__(self, width: int, num_heads: int):
        super().__init__()
        self.attn = Attention(width, num_heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = _GELUMLP(width)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, self.attn.project_keys(y), self.attn.project_values(y), mask)
        return x + self.mlp(self.ln_2(x))


class _TextTransformer(nn.Module):
    def __init__(self, width: int, num_layers: int, num_heads: int):
        super().__init__()
        self.resblocks = nn.ModuleList(_TextBlock(width, num_heads) for _ in range(num_layers))


class TextEncoder(nn.Module):
    """Token ids -> one feature per string, read at its end-of-text token."""

    def __init__(self, *, width: int, context_length: int, num_layers: int, vocab_size: int):
        super().__init__()
        self.transformer = _TextTransformer(width, num_layers, max(width // 64, 1))
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(context_length, width))
        self.ln_final = nn.LayerNorm(width)
        self._reset_parameters(width, num_layers)

    def _reset_parameters(self, width: int, num_layers: int) -> None:
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        projection_std = width**-0.5 * (2 * num_layers) ** -0.5
        for block in self.transformer.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=projection_std)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=projection_std)

    def forward(self, tokens: Tensor) -> Tensor:
        """(U, T) int64 ids -> (U, W). Give them on the CPU: their length is read, which would wait for a GPU."""
        end = tokens.argmax(dim=1)   # the end-of-text id is the largest of the vocabulary
        # Causal: what follows the end of the longest string changes nothing, so it is not computed.
        tokens = tokens[:, : int(end.max()) + 1]
        tokens, end = (t.to(self.token_embedding.weight.device, non_blocking=True) for t in (tokens, end))
        length = tokens.shape[1]
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        mask = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()[None, None]
        for block in self.transformer.resblocks:
            x = block(x, mask)
        return self.ln_final(x[torch.arange(len(x), device=x.device), end])


class TextBranch:
    """Reads an image's text vectors out of the encoder, the projector and the contextual tokens.

    Not a module: the released checkpoints keep the three at the top of the model.
    """

    def __init__(self, encoder: TextEncoder, projector: MLP, context: nn.Embedding):
        self.encoder, self.projector, self.context = encoder, projector, context

    def __call__(self, tokens: list[Tensor], index: list[Tensor]) -> Tensor:
        """
        Args:
            tokens: per image (U_b, T) int64, its unique strings.
            index: per image (N,) int64, which unique string stands at each place.

        Returns:
            (B, N + contextual tokens, W).
        """
        device = self.context.weight.device
        unique, inverse = torch.unique(torch.cat(tokens), dim=0, return_inverse=True)
        rows = inverse.split([len(t) for t in tokens])
        features = self.projector(self.encoder(unique))
        place = torch.stack([row[i] for row, i in zip(rows, index, strict=True)])
        place = place.to(device, non_blocking=True)
        context = self.context.weight.to(features.dtype).expand(len(tokens), -1, -1)
        return torch.cat((F.embedding(place, features), context), dim=1)
