"""The parts of a network that another engine can run: what they are given, what they return, and how to replace them.

A detector names them in ``engine_parts``. A part takes and returns tensors in lists, tuples and dicts; an engine sees
them as one flat list.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn
from torch.utils import _pytree as trees

# Runs a converted part: flat inputs to flat outputs, on the CPU or wherever the engine leaves them.
Run = Callable[[Sequence[Tensor]], list[Tensor]]
# Two sizes, all of whose levels differ in all sides, to see which dimensions vary. No side of a level is 1.
_EXAMPLES = ((2, 96, 128), (1, 160, 224))


class FlatPart(nn.Module):
    """A part as a function of tensors alone.

    Args:
        part: Module that takes and returns nested tensors.
        inputs: How its inputs are nested.
    """

    def __init__(self, part: nn.Module, inputs: trees.TreeSpec) -> None:
        super().__init__()
        self.part = part
        self.inputs = inputs

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Flat inputs to flat outputs."""
        return tuple(trees.tree_leaves(self.part(*trees.tree_unflatten(list(tensors), self.inputs))))


@dataclass(frozen=True)
class PartExample:
    """What one part was given and returned in a small example.

    Attributes:
        name: Place of the part in its network.
        part: The module.
        inputs: Flat inputs.
        outputs: Flat outputs.
        input_spec: How the inputs are nested.
        output_spec: How the outputs are nested.
        varying: For each input the dimensions whose size differs from slab to slab.
    """

    name: str
    part: nn.Module
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    input_spec: trees.TreeSpec
    output_spec: trees.TreeSpec
    varying: tuple[frozenset[int], ...]

    def flat(self) -> FlatPart:
        """The part as a function of flat inputs, in evaluation mode."""
        return FlatPart(self.part, self.input_spec).eval()


def part_examples(network: nn.Module) -> list[PartExample]:
    """Run a network on small slabs of noise and note what its parts are given.

    Args:
        network: A detector with ``engine_parts`` and ``backbone.num_slices``; in evaluation mode meanwhile.

    Raises:
        ValueError: If the network names no parts.
    """
    names: Sequence[str] = getattr(network, "engine_parts", ())
    if not names:
        raise ValueError(f"Expected a network that names parts for other engines, got a {type(network).__name__}.")
    first, second = (_seen(network, names, size) for size in _EXAMPLES)
    found = []
    for name in names:
        (inputs, outputs), (others, _) = first[name], second[name]
        flat, input_spec = trees.tree_flatten(inputs)
        results, output_spec = trees.tree_flatten(outputs)
        if not all(isinstance(each, Tensor) for each in (*flat, *results)):
            raise ValueError(f"Expected {name} to take and return tensors alone.")
        varying = tuple(
            frozenset([0, *(axis for axis, (a, b) in enumerate(zip(one.shape, other.shape, strict=True)) if a != b)])
            for one, other in zip(flat, trees.tree_leaves(others), strict=True)
        )
        part = network.get_submodule(name)
        found.append(PartExample(name, part, tuple(flat), tuple(results), input_spec, output_spec, varying))
    return found


def _seen(network: nn.Module, names: Sequence[str], size: tuple[int, int, int]) -> dict[str, tuple[Any, Any]]:
    """Inputs and outputs of each part for ``size`` (slabs, height, width)."""
    seen: dict[str, tuple[Any, Any]] = {}

    def note(name: str, module: nn.Module, inputs: Any, outputs: Any) -> None:
        # Copies: later layers may write into them.
        seen[name] = trees.tree_map_only(Tensor, torch.clone, (inputs, outputs))

    first = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    slices = int(network.backbone.num_slices)  # type: ignore[union-attr, arg-type]
    slabs = torch.randn((size[0], slices, *size[1:]), generator=generator).to(first)
    hooks = [network.get_submodule(name).register_forward_hook(partial(note, name)) for name in names]
    try:
        with eval_mode(network), torch.no_grad():
            network(slabs)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


class ConvertedPart:
    """Takes the place of a part's ``forward``: the engine in evaluation, the module itself in training.

    Args:
        example: The part.
        run: Runs it on the engine.
    """

    def __init__(self, example: PartExample, run: Run) -> None:
        self.example = example
        self.run = run
        self.own = partial(type(example.part).forward, example.part)
        # An engine's memory for one call is used by the next: several threads take turns.
        self.turn = threading.Lock()

    def __call__(self, *inputs: Any) -> Any:
        """What the part itself would return, with the engine's rounding."""
        tensors, spec = trees.tree_flatten(inputs)
        known = spec == self.example.input_spec and all(isinstance(each, Tensor) and each.numel() for each in tensors)
        if self.example.part.training or torch.is_grad_enabled() or not known:
            return self.own(*inputs)
        with self.turn:
            results = self.run(tensors)
        return trees.tree_unflatten([result.to(tensors[0].device) for result in results], self.example.output_spec)


def detach(network: nn.Module) -> None:
    """Have the parts of a network run as they are, whatever was put in their place."""
    for name in getattr(network, "engine_parts", ()):
        network.get_submodule(name).__dict__.pop("forward", None)
