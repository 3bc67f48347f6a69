"""3D residual networks that keep the slice axis: MP3D ResNet and its relatives (paper section 2.1).

Feature maps are ``(B, C, D, H, W)``. No convolution carries a bias; every convolution is followed by
group normalisation whose statistics span the slice axis, so that each output depends on the whole slab.
The depth axis is never strided by a convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..sizes import check_sizes
from .densenet import SlicePairs

# P3D-A, P3D-B and P3D-C blocks alternate over the whole network, not per stage (released code).
BLOCK_KINDS = "ABC"


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """Group normalisation with at most ``groups`` groups (one per channel where there are fewer channels).

    Raises:
        ValueError: If the channels cannot be divided into the groups.
    """
    groups = min(groups, channels)
    if channels % groups:
        raise ValueError(f"Expected a number of channels divisible by {groups} norm groups, got {channels}.")
    return nn.GroupNorm(groups, channels, eps=1e-5)


NormFactory = Callable[[int], nn.Module]


def is_usual_on_cpu(x: Tensor) -> bool:
    """Whether a map lies in the usual order in memory, on a CPU: there some layers have faster ways.

    Not while the network is being converted for another engine, which has its own ways of running a layer.
    """
    converted = torch.jit.is_tracing() or torch.compiler.is_exporting()
    return x.device.type == "cpu" and x.is_contiguous() and not converted


class LineConv3d(nn.Conv3d):
    """Convolution without bias whose kernel spans one or three slices and one pixel: products of matrices on a CPU.

    They spare PyTorch's kernels the change of the order in memory. Pixels between the strides are left out first:
    strided kernels take three times as long, forward and backward.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, Cin, D, H, W)`` -> ``(B, C, D, H / stride, W / stride)``, rounded up."""
        if not is_usual_on_cpu(x):
            return super().forward(x)
        x = x[:, :, :: self.stride[0], :: self.stride[1], :: self.stride[2]]
        # Autocast does not reach what is added in place.
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        columns, (depth, *plane) = x.flatten(2).to(dtype), x.shape[2:]
        kernels = self.weight.to(dtype).flatten(2).unbind(2)
        middle, size = len(kernels) // 2, plane[0] * plane[1]
        sums = torch.bmm(kernels[middle].expand(len(x), -1, -1), columns)
        if middle and depth > 1:
            sums[..., size:].baddbmm_(kernels[0].expand(len(x), -1, -1), columns[..., :-size])
            sums[..., :-size].baddbmm_(kernels[2].expand(len(x), -1, -1), columns[..., size:])
        return sums.unflatten(2, (depth, *plane))


class SlabMaxPool3d(nn.MaxPool3d):
    """3D max-pool of tuples ``(z, y, x)`` in the way that is fastest, with the same values.

    For a conversion it takes maxima in the planes first, then between slices: a single step takes 20 times as long in
    OpenVINO 2026.4. On a CPU PyTorch 2.15 takes several maxima at once only channels last, but its backward pass is
    slow there: so it looks for them in that order, and takes them in the usual one.
    """

    kernel_size: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` -> ``(B, C, D', H', W')``."""
        if not x.is_contiguous():
            return F.max_pool3d(x, self.kernel_size, self.stride, self.padding)
        if is_usual_on_cpu(x):
            with torch.no_grad():
                last = x.contiguous(memory_format=torch.channels_last_3d)
                maxima, at = F.max_pool3d(last, self.kernel_size, self.stride, self.padding, return_indices=True)
            return x.flatten(2).gather(2, at.flatten(2)).unflatten(2, maxima.shape[2:])
        (across, *kernel), (step, *stride), (margin, *padding) = self.kernel_size, self.stride, self.padding
        planes = F.max_pool2d(x.flatten(1, 2), kernel, stride, padding).unflatten(1, x.shape[1:3])
        # Slices as rows, the pixels of a slice as columns.
        between = F.max_pool2d(planes.flatten(3), (across, 1), (step, 1), (margin, 0))
        return between.unflatten(3, planes.shape[3:])


class ConvNorm(nn.Sequential):
    """Convolution without bias, normalisation and (by default) ReLU: ``(B, C, D, H, W)`` to ``(B, C', D, H', W')``."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: tuple[int, int, int],
        norm: NormFactory,
        stride: int = 1,
        activate: bool = True,
    ) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
        kind = LineConv3d if kernel[1:] == (1, 1) else nn.Conv3d
        conv = kind(in_channels, out_channels, kernel, stride=(1, stride, stride), padding=padding, bias=False)
        layers = [conv, norm(out_channels)]
        super().__init__(*layers, nn.ReLU(inplace=True)) if activate else super().__init__(*layers)


def projection(in_channels: int, out_channels: int, stride: int, norm: NormFactory) -> nn.Module:
    """Shortcut of a residual block: identity where the shape allows it, else a strided 1x1x1 convolution."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return ConvNorm(in_channels, out_channels, kernel=(1, 1, 1), norm=norm, stride=stride, activate=False)


class SeparablePair(nn.Module):
    """A 1x3x3 in-plane convolution S and a 3x1x1 inter-slice convolution T, combined as P3D-A, -B or -C.

    With input ``x``: A gives ``T(S(x))``, B gives ``S(x) + T(x)``, C gives ``S(x) + T(S(x))``. S and T
    each end in normalisation and ReLU; nothing follows the sum (released code).

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        kind: ``"A"``, ``"B"`` or ``"C"``.
        norm: Makes the normalisation of a given number of channels.
        stride: In-plane stride, carried by the layers that read ``x``.
    """

    def __init__(self, in_channels: int, channels: int, *, kind: str, norm: NormFactory, stride: int = 1) -> None:
        super().__init__()
        if kind not in tuple(BLOCK_KINDS):
            raise ValueError(f"Expected a block kind out of {tuple(BLOCK_KINDS)}, got {kind!r}.")
        self.kind = kind
        # A network may put its own mixing of slices in front of the in-plane convolution, of so many channels.
        self.pairs: nn.Module = nn.Identity()
        self.mixed = in_channels
        parallel = kind == "B"
        self.in_plane = ConvNorm(in_channels, channels, kernel=(1, 3, 3), norm=norm, stride=stride)
        self.inter_slice = ConvNorm(
            in_channels if parallel else channels,
            channels,
            kernel=(3, 1, 1),
            norm=norm,
            stride=stride if parallel else 1,
        )

    def forward(self, x: Tensor) -> Tensor:
        """``(B, Cin, D, H, W)`` -> ``(B, C, D, H / stride, W / stride)``."""
        within = self.in_plane(self.pairs(x))
        if self.kind == "A":
            return self.inter_slice(within)
        return within + self.inter_slice(x if self.kind == "B" else within)


class PseudoBottleneck(nn.Module):
    """P3D bottleneck: 1x1x1 (carrying the stride, as in Caffe), S and T, 1x1x1 to four times the planes.

    Source: paper section 2.1; strides and kinds by the released code.
    """

    expansion = 4

    def __init__(self, in_channels: int, planes: int, *, stride: int, index: int, norm: NormFactory) -> None:
        super().__init__()
        self.reduce = ConvNorm(in_channels, planes, kernel=(1, 1, 1), norm=norm, stride=stride)
        self.pair = SeparablePair(planes, planes, kind=BLOCK_KINDS[index % 3], norm=norm)
        self.expand = ConvNorm(planes, 4 * planes, kernel=(1, 1, 1), norm=norm, activate=False)
        self.shortcut = projection(in_channels, 4 * planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, Cin, D, H, W)`` -> ``(B, 4 * planes, D, H / stride, W / stride)``."""
        out = self.expand(self.pair(self.reduce(x)))
        return out.add_(self.shortcut(x)).relu_()


class PseudoBasicBlock(nn.Module):
    """P3D basic block: two S/T pairs, no 1x1x1 convolutions (the released code's depths 18 and 34 "ba")."""

    expansion = 1

    def __init__(self, in_channels: int, planes: int, *, stride: int, index: int, norm: NormFactory) -> None:
        super().__init__()
        kind = BLOCK_KINDS[index % 3]
        self.pair1 = SeparablePair(in_channels, planes, kind=kind, norm=norm, stride=stride)
        self.pair2 = SeparablePair(planes, planes, kind=kind, norm=norm)
        self.shortcut = projection(in_channels, planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, Cin, D, H, W)`` -> ``(B, planes, D, H / stride, W / stride)``."""
        return torch.relu_(self.pair2(self.pair1(x)) + self.shortcut(x))


class FullBottleneck(nn.Module):
    """Bottleneck with a full 3x3x3 convolution that carries the stride: MR3D, the paper's 3D reference.

    Deduced from the paper's parameter and operation counts (MR3D is not in the released code).
    """

    expansion = 4

    def __init__(self, in_channels: int, planes: int, *, stride: int, index: int, norm: NormFactory) -> None:
        super().__init__()
        del index  # all blocks are alike; the argument belongs to the common signature
        self.reduce = ConvNorm(in_channels, planes, kernel=(1, 1, 1), norm=norm)
        self.pairs: nn.Module = nn.Identity()
        self.mixed = planes
        self.spatial = ConvNorm(planes, planes, kernel=(3, 3, 3), norm=norm, stride=stride)
        self.expand = ConvNorm(planes, 4 * planes, kernel=(1, 1, 1), norm=norm, activate=False)
        self.shortcut = projection(in_channels, 4 * planes, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, Cin, D, H, W)`` -> ``(B, 4 * planes, D, H / stride, W / stride)``."""
        out = self.expand(self.spatial(self.pairs(self.reduce(x))))
        return out.add_(self.shortcut(x)).relu_()


class VolumePairs(SlicePairs):
    """A3D's `SlicePairs` on maps ``(B, C, D, H, W)``, starting as the identity exactly."""

    def __init__(self, channels: int, num_slices: int) -> None:
        super().__init__(channels, num_slices, noise=0.0)

    def forward(self, x: Tensor, alpha: Tensor | None = None) -> Tensor:
        """``(B, C, D, H, W)`` -> ``(B, C, D, H, W)``; ``alpha`` is ignored."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Stem(nn.Module):
    """First convolution (in-plane stride 2) and max-pool (in-plane stride 2): a quarter of the resolution.

    Args:
        channels: Output channels.
        norm: Makes the normalisation.
        depth: Slices that the 7x7 convolution spans: 1 in MP3D, 7 in MR3D.
        pool_depth: Slices that the max-pool spans: 3 in MP3D (it does mix neighbours), 1 with isotropic pooling.
    """

    def __init__(self, channels: int, norm: NormFactory, *, depth: int = 1, pool_depth: int = 3) -> None:
        super().__init__()
        self.conv = ConvNorm(1, channels, kernel=(depth, 7, 7), norm=norm, stride=2)
        self.pool = SlabMaxPool3d((pool_depth, 3, 3), stride=(1, 2, 2), padding=(pool_depth // 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 1, D, H, W)`` -> ``(B, channels, D, H / 4, W / 4)``."""
        return self.pool(self.conv(x))


class InterSlicePool(nn.Module):
    """Max-pool over three neighbouring slices; passes fewer than ``minimum`` slices through unchanged.

    Args:
        stride: Slices between outputs.
        padding: Slices added at both ends.
        minimum: Slices needed for pooling.
    """

    def __init__(self, stride: int, padding: int, minimum: int = 1) -> None:
        super().__init__()
        self.pool = nn.MaxPool3d((3, 1, 1), stride=(stride, 1, 1), padding=(padding, 0, 0))
        self.minimum = minimum

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` -> ``(B, C, D', H, W)``."""
        return self.pool(x) if x.shape[2] >= self.minimum else x


def isotropic_pools() -> list[nn.Module]:
    """Stage pools of the original P3D network: nine slices become 5, 3 and 1 after the first three stages.

    The paper's reference for pre-training (section 3.4, Table 3). Its third pool needs three slices and is
    skipped below that: three input slices are down to one by then, as the paper says.
    """
    return [InterSlicePool(2, 1), InterSlicePool(2, 1), InterSlicePool(1, 0, minimum=3), nn.Identity()]


class ResNet3d(nn.Module):
    """Residual network over a slab; MP3D ResNet-63 with its defaults.

    Args:
        block: Class of the residual blocks.
        layers: Number of blocks in each stage. (3, 4, 6, 3) is MP3D-63.
        width: Planes of the first stage; each further stage doubles it. 64 in the paper.
        norm_groups: Groups of the group normalisation (fewer where there are fewer channels).
        stem: Makes the stem from ``(channels, norm)``.
        stage_pools: Modules applied to the output of each stage, for inter-slice pooling; none in MP3D.
            Their output is both what the stage returns and what the next stage reads.
        slice_pairs: Slices of the slabs, for a learned matrix over pairs of slices (A3D, Yang et al. 2021) in front of
            every convolution that looks within slices. It starts as the identity, so that trained weights of a
            network without it give what they gave. None for none, as in MP3D.
    """

    def __init__(
        self,
        block: type[nn.Module] = PseudoBottleneck,
        layers: Sequence[int] = (3, 4, 6, 3),
        *,
        width: int = 64,
        norm_groups: int = 32,
        stem: Callable[[int, NormFactory], nn.Module] = Stem,
        stage_pools: Sequence[nn.Module] | None = None,
        slice_pairs: int | None = None,
    ) -> None:
        super().__init__()
        if len(layers) != 4:
            raise ValueError(f"Expected the blocks of four stages, got layers={tuple(layers)}.")
        check_sizes(layers=layers, width=width, norm_groups=norm_groups)

        def norm(channels: int) -> nn.Module:
            return group_norm(channels, norm_groups)

        self.stem = stem(width, norm)
        self.stages = nn.ModuleList()
        self.out_channels: list[int] = []
        in_channels, index = width, 0
        for stage, count in enumerate(layers):
            planes = width * 2**stage
            blocks = []
            for position in range(count):
                stride = 2 if stage > 0 and position == 0 else 1
                blocks.append(block(in_channels, planes, stride=stride, index=index, norm=norm))
                in_channels, index = planes * block.expansion, index + 1  # type: ignore[operator]
            self.stages.append(nn.Sequential(*blocks))
            self.out_channels.append(in_channels)
        self.stage_pools = nn.ModuleList(stage_pools or [nn.Identity() for _ in layers])
        if slice_pairs is not None:
            self._pair_slices(slice_pairs)
        self.reset_parameters()

    def _pair_slices(self, depth: int) -> None:
        for stage, pool in zip(self.stages, self.stage_pools, strict=True):
            for module in list(stage.modules()):
                if isinstance(module, (SeparablePair, FullBottleneck)):
                    module.pairs = VolumePairs(module.mixed, depth)
            depth = pool(torch.empty(1, 1, depth, 1, 1, device="meta")).shape[2]

    def reset_parameters(self) -> None:
        """Initialise as the released code does from scratch: convolutions Xavier-uniform, norms to identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.xavier_uniform_(module.weight)
            elif isinstance(module, nn.GroupNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Maps of the four stages.

        Args:
            x: ``(B, 1, D, H, W)`` slabs, H and W multiples of 32.

        Returns:
            Four tensors ``(B, C_i, D_i, H / s_i, W / s_i)`` with s = 4, 8, 16, 32; without stage pools D_i = D.
        """
        outputs = []
        x = self.stem(x)
        for stage, pool in zip(self.stages, self.stage_pools, strict=True):
            x = pool(stage(x))
            outputs.append(x)
        return outputs
