"""SATr, the slice attention transformer on A3D (Li et al., MICCAI 2022, arXiv 2203.07373).

After each dense block, tokens of the target slice are gathered by attention whose weights come from its six neighbours,
and added to the reduced map. 170,990,351 parameters. Numbers by the released code (MIRACLE-Center/A3D_SATr).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import MLP, StochasticDepth

from ..backbones.densenet import SlicePairs
from ..backbones.densenet_slab import DenseSlabBackbone
from ..heads.roi_heads import BoxPredictor
from ..sizes import check_sizes
from ..two_stage import FasterRCNN
from .align_shift import AUTHORS_BACKBONE, MASK_RCNN, one_map_mask_rcnn
from .authors_names import Rules

EPSILON = 1e-6

ATTENTION_BACKBONE: Rules = (
    (r"backbone\.trans_patch_conv(\d)\.", r"backbone.stages.\1.whole."),
    (r"backbone\.squeeze_block(\d)\.conv_project(\d)\.", r"backbone.stages.\1.tokens.projections.\2."),
    (r"backbone\.squeeze_block(\d)\.ln(\d)\.", r"backbone.stages.\1.tokens.norms.\2."),
    (r"backbone\.trans_block(\d)\.attn\.(qk|v|proj)\.", r"backbone.stages.\1.attention.\2."),
    (r"backbone\.trans_block(\d)\.mlp\.fc1\.", r"backbone.stages.\1.attention.mlp.0."),
    (r"backbone\.trans_block(\d)\.mlp\.fc2\.", r"backbone.stages.\1.attention.mlp.3."),
    (r"backbone\.trans_block(\d)\.(norm\d)\.", r"backbone.stages.\1.attention.\2."),
    (r"backbone\.expand_block(\d)\.conv_project\.", r"backbone.stages.\1.expand."),
    (r"backbone\.expand_block(\d)\.bn\.", r"backbone.stages.\1.expand_norm."),
    (r"backbone\.fusion_block(\d)\.conv1\.", r"backbone.stages.\1.fuse."),
    (r"backbone\.fusion_block(\d)\.bn1\.", r"backbone.stages.\1.fuse_norm."),
    *AUTHORS_BACKBONE,
)
SLICE_ATTENTION_NAMES: Rules = (*ATTENTION_BACKBONE, *MASK_RCNN)


class NeighbourAttention(nn.Module):
    """Attention over the target slice's tokens, with queries and keys from its neighbours, and a perceptron.

    Args:
        embedding: Length of a token.
        num_slices: D.
        heads: Attention heads.
    """

    def __init__(self, embedding: int, num_slices: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(embedding, eps=EPSILON)
        self.qk = nn.Linear((num_slices - 1) * embedding, 2 * embedding)
        self.v = nn.Linear(embedding, embedding)
        self.proj = nn.Linear(embedding, embedding)
        self.norm2 = nn.LayerNorm(embedding, eps=EPSILON)
        self.mlp = MLP(embedding, [4 * embedding, embedding], activation_layer=nn.GELU, inplace=None)
        self.drop_path = StochasticDepth(0.001, "row")

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens ``(B, D, T, E)`` of all slices -> tokens ``(B, T, E)`` of the middle one."""
        middle = tokens.shape[1] // 2
        normed = self.norm1(tokens)
        around = torch.cat([normed[:, :middle], normed[:, middle + 1 :]], dim=1)
        query, key = self.qk(around.transpose(1, 2).flatten(2)).chunk(2, dim=-1)
        split = [
            each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in (query, key, self.v(normed[:, middle]))
        ]
        mixed = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        x = tokens[:, middle] + self.drop_path(self.proj(mixed))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class SliceTokens(nn.Module):
    """Tokens of every slice by a projection of its own, and of the whole slab for the middle one.

    Args:
        channels: Channels of the maps.
        num_slices: D.
        patch: Side of a token in cells.
        embedding: Length of a token.
    """

    def __init__(self, channels: int, num_slices: int, patch: int, embedding: int) -> None:
        super().__init__()
        self.patch = patch
        self.projections = nn.ModuleDict({str(i + 1): nn.Conv2d(channels, embedding, 1) for i in range(num_slices)})
        self.norms = nn.ModuleDict({str(i + 1): nn.LayerNorm(embedding, eps=EPSILON) for i in range(num_slices)})

    def forward(self, volume: Tensor, whole: Tensor) -> Tensor:
        """Tokens of all slices.

        Args:
            volume: ``(B, C, D, h, w)``.
            whole: ``(B, T, E)``, a class token and the tokens of the slab.

        Returns:
            ``(B, D, T, E)``. The class token of the middle slice appears twice, as in the released code.
        """
        rows = []
        for index, (project, norm) in enumerate(zip(self.projections.values(), self.norms.values(), strict=True)):
            pooled = F.avg_pool2d(project(volume[:, :, index]), self.patch)
            tokens = F.gelu(norm(pooled.flatten(2).transpose(1, 2)))
            rows.append(torch.cat([whole[:, :1], tokens], dim=1))
        middle = len(rows) // 2
        rows[middle] = rows[middle] + whole
        return torch.stack(rows, dim=1)


class AttentionStage(nn.Module):
    """The part that SATr adds to a dense block.

    Args:
        channels: Channels of the block's maps.
        num_slices: D.
        patch: Side of a token in cells.
        embedding: Length of a token.
        heads: Attention heads.
    """

    def __init__(self, channels: int, num_slices: int, patch: int, embedding: int, heads: int) -> None:
        super().__init__()
        self.patch, self.embedding = patch, embedding
        self.whole = nn.Conv3d(channels, embedding, (num_slices, patch, patch), stride=(1, patch, patch))
        self.tokens = SliceTokens(channels, num_slices, patch, embedding)
        self.attention = NeighbourAttention(embedding, num_slices, heads)
        self.expand = nn.Conv2d(embedding, channels, 1)
        self.expand_norm = nn.BatchNorm2d(channels, eps=EPSILON)
        self.fuse = nn.Conv2d(channels, channels, 1, bias=False)
        self.fuse_norm = nn.BatchNorm2d(channels, eps=EPSILON)

    def forward(self, volume: Tensor, reduced: Tensor, class_token: Tensor) -> tuple[Tensor, Tensor]:
        """The reduced map with what attention found, and the class token for the next stage.

        Args:
            volume: ``(B, C, D, h, w)``.
            reduced: ``(B, C, h, w)``, its reduction to the target slice.
            class_token: ``(B, 1, E)``.
        """
        patches = self.whole(volume).squeeze(2)
        whole = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1)
        found = self.attention(self.tokens(volume, whole))
        grid = found[:, 1:].transpose(1, 2).unflatten(2, patches.shape[-2:])
        small = self.expand_norm(self.expand(grid)).relu()
        found_map = F.interpolate(small, scale_factor=float(self.patch), mode="nearest")
        return self.fuse_norm(self.fuse(reduced + found_map)).relu() + reduced, found[:, :1]


class AttentionBackbone(DenseSlabBackbone):
    """A3D's backbone with an attention stage after each block; its main stream is unchanged.

    Args:
        num_slices: D, odd and at least 3: 7 in the released code.
        embedding: Length of a token.
        heads: Attention heads.
        out_channels: Channels of the map.
        layers: Dense layers of each block.
        growth: Channels that a dense layer adds; the stem has twice as many.

    Raises:
        ValueError: If the number of slices is not odd or below 3.
    """

    def __init__(
        self,
        num_slices: int = 7,
        *,
        embedding: int = 384,
        heads: int = 6,
        out_channels: int = 512,
        layers: Sequence[int] = (6, 12, 24),
        growth: int = 32,
    ) -> None:
        super().__init__(num_slices, SlicePairs, out_channels=out_channels, layers=layers, growth=growth)
        if num_slices < 3:
            raise ValueError(f"Expected at least three slices for attention to neighbours, got {num_slices!r}.")
        check_sizes(embedding=embedding, heads=heads)
        make = partial(AttentionStage, num_slices=num_slices, embedding=embedding, heads=heads)
        sides = zip(self.body.out_channels, (8, 4, 2), strict=True)
        self.stages = nn.ModuleDict({str(i): make(each, patch=side) for i, (each, side) in enumerate(sides, start=1)})
        self.embedding = embedding

    def reduced(self, volumes: Sequence[Tensor]) -> list[Tensor]:
        """``(B, C_i, D, h, w)`` maps of the blocks -> ``(B, C_i, h, w)`` maps of the target slice."""
        class_token = volumes[0].new_zeros((volumes[0].shape[0], 1, self.embedding))
        maps = []
        for stage, volume, flat in zip(self.stages.values(), volumes, super().reduced(volumes), strict=True):
            fused, class_token = stage(volume, flat, class_token)
            maps.append(fused)
        return maps


def slice_attention(
    num_slices: int = 7,
    num_classes: int = 1,
    *,
    masks: bool = True,
    layers: Sequence[int] = (6, 12, 24),
    growth: int = 32,
    channels: int = 512,
    embedding: int = 384,
    fc_channels: int = 2048,
) -> FasterRCNN:
    """SATr, whole: 170,990,351 parameters at 7 slices.

    Boxes are those of its authors, whose last pixel counts (`..heads.box_rules`).

    Args:
        num_slices: Slices of a slab, odd and at least 3.
        num_classes: Classes without background; the authors' weights are for one.
        masks: Whether boxes get the field ``masks``, which the training targets then need too.
        layers: Dense layers of each block.
        growth: Channels that a dense layer adds; the stem has twice as many.
        channels: Channels of the map.
        embedding: Length of a token, a multiple of 6.
        fc_channels: Width of the two fully connected layers.

    Raises:
        ValueError: If ``num_slices`` is not an odd number >= 3.
    """
    predictor = BoxPredictor(fc_channels, num_classes, background=True)
    backbone = AttentionBackbone(num_slices, embedding=embedding, out_channels=channels, layers=layers, growth=growth)
    return one_map_mask_rcnn(backbone, channels, predictor=predictor, masks=masks, score=5e-5)
