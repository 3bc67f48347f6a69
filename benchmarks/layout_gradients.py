"""Maps and gradients of a body whose 3D convolutions work channels last, and of one in the usual order.

Both are compared with float64.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from scripts.engines.memory_layout import channels_last
from scripts.networks import ResNet3d, SlabBackbone


def maps(network: nn.Module, slabs: torch.Tensor) -> torch.Tensor:
    """All values of all levels, in float64."""
    with torch.no_grad():
        return torch.cat([level.double().flatten() for level in network(slabs)])


def gradients(network: nn.Module, slabs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients of the mean square of all levels, in float64."""
    torch.stack([level.square().mean() for level in network(slabs)]).sum().backward()
    return {name: each.grad.double() for name, each in network.named_parameters() if each.grad is not None}


def main() -> None:
    """Print the largest relative differences."""
    # With one thread PyTorch takes convolutions that know the usual order only.
    torch.set_num_threads(2)
    torch.manual_seed(0)
    plain = SlabBackbone(ResNet3d(layers=(1, 1, 1, 1), width=8), 3, out_channels=16)
    last, exact = channels_last(copy.deepcopy(plain)), copy.deepcopy(plain).double()
    slabs = torch.randn(2, 3, 64, 64)
    levels, wanted = maps(exact, slabs.double()), gradients(exact, slabs.double())
    # A bias whose exact gradient is zero has no relative difference.
    counted = [name for name, each in wanted.items() if each.norm() > 1e-9]
    for title, network in (("usual order", plain), ("channels last", last)):
        off = float((maps(network, slabs) - levels).norm() / levels.norm())
        found = gradients(network, slabs)
        away = {name: float((found[name] - wanted[name]).norm() / wanted[name].norm()) for name in counted}
        worst = max(away, key=lambda name: away[name])
        many = sum(value > 1e-4 for value in away.values())
        print(
            f"{title}: maps {off:.1e}; gradients {away[worst]:.1e} at most ({worst}), {many} of {len(away)} above 1e-4"
        )


if __name__ == "__main__":
    main()
