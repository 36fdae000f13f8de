"""Groups of channels of a torch module that can be removed together, found by Torch-Pruning.

A group counts only if the ONNX model of the module has the same group, made by the same layers:
then the latency of every width can be measured before anything is removed. It must also pass a
trial: channels that nothing reads are removed, and the outputs stay the same. All other channels
stay.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from latbench.errors import InvalidValueError, in_one_line
from latbench.lazy import needing
from latbench.models.channels.groups import ChannelGroup, Channels

Floats = NDArray[np.float64]

_WEIGHT = ".weight"
_STEP = 8  # channels: a trial leaves a multiple of it, since some modules take no odd widths
_INPUTS = 4  # of a trial; what one constant gives for all of them says nothing
_SAME = 1e-3  # of the largest deviation from the mean, up to which outputs are the same
_ROUNDING = 2e-6  # of the largest output in float32; 7e-7 was the most in networks of torchvision


@dataclass(frozen=True)
class PrunableGroup:
    """Channels of a module that are removed together.

    Attributes:
        name: Name of the first layer that makes them.
        width: Number of channels.
        layers: Names of all layers that make them.
    """

    name: str
    width: int
    layers: tuple[str, ...]


class PrunableModule:
    """A module with its prunable groups.

    Args:
        module: The module; it is not changed.
        example: An input, on the module's device; the values do not matter.
        channels: Groups of channels of its ONNX model.

    Raises:
        MissingExtraError: Torch-Pruning is not installed.
        InvalidValueError: The module has no channels that can be removed.
    """

    def __init__(self, module: nn.Module, example: Tensor, channels: Channels) -> None:
        self.module, self.example = copy.deepcopy(module).eval(), example
        self._graph = _graph(self.module, example)
        self.groups = self._passing(_matching(self.module, self._graph, channels))
        if not self.groups:
            raise InvalidValueError(
                f"{type(module).__name__} has no channels that can be removed: those of its "
                "inputs, outputs, grouped convolutions and attention heads must stay"
            )

    def pruned(self, removed: Mapping[PrunableGroup, Sequence[int]]) -> nn.Module:
        """A copy of the module without some channels of its groups.

        Raises:
            InvalidValueError: Torch-Pruning removed other channels than those.
        """
        return _without(copy.deepcopy(self.module), self.example, removed)

    def _passing(self, groups: tuple[PrunableGroup, ...]) -> tuple[PrunableGroup, ...]:
        """Groups that pass a trial; one trial of all of them is enough if it is passed."""
        if self._is_exact(groups):
            return groups
        passing = tuple(group for group in groups if self._is_exact([group]))
        return passing if self._is_exact(passing) else ()

    def _is_exact(self, groups: Sequence[PrunableGroup]) -> bool:
        """Whether the outputs stay the same when channels that nothing reads are removed.

        They do not if Torch-Pruning takes other channels of a reader for those, as behind a
        shuffle, or if a buffer or a constant of the module needs the whole width.
        """
        rng = np.random.default_rng(0)
        removed = {}
        for group in groups:
            left = max(_STEP, group.width // 2 // _STEP * _STEP)
            count = max(group.width - left, 0)
            removed[group] = sorted(rng.permutation(group.width)[:count].tolist())
        unread = copy.deepcopy(self.module)
        graph = _graph(unread, self.example)
        for group, channels in removed.items():
            if channels:
                _stop_reading(_group(unread, graph, group.name, channels), graph)
        draws = torch.Generator().manual_seed(0)
        inputs = [
            torch.randn(self.example.shape, generator=draws).to(self.example)
            for _ in range(_INPUTS)
        ]
        with torch.no_grad():
            wanted = torch.stack([unread(each) for each in inputs])  # (inputs, N, outputs)
            try:
                narrow = _without(unread, self.example, removed)
                found = torch.stack([narrow(each) for each in inputs])
            except Exception:  # code of the module, which may check shapes; or too much went
                return False
        deviation = (wanted - wanted.mean((0, 1))).abs().max()
        most = torch.maximum(_SAME * deviation, _ROUNDING * wanted.abs().max())
        return found.shape == wanted.shape and bool((found - wanted).abs().max() <= most)

    def importances(self, losses: Iterable[Tensor]) -> dict[PrunableGroup, Floats]:
        """Importance of every channel, by group: an estimate of the loss without it.

        It is the sum over the weights of weight times gradient, of convolutions and linear layers
        that make or read the channel, averaged over these layers, squared and added up over
        batches: the first-order term of the loss as the channel vanishes ("Taylor FO" in Molchanov
        et al., CVPR 2019). Squares do not cancel in a trained network, where gradients add up to
        nothing.

        Args:
            losses: Loss of one batch after the other, computed by ``self.module``.

        Returns:
            Importances, ``(width,)``.
        """
        pruning = _torch_pruning()
        taylor = pruning.importance.GroupTaylorImportance(
            group_reduction="mean", normalizer=None, multivariable=True
        )
        found = {group: np.zeros(group.width) for group in self.groups}
        everything = {
            group: _group(self.module, self._graph, group.name, range(group.width))
            for group in self.groups
        }
        for loss in losses:
            self.module.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for group, members in everything.items():
                found[group] += taylor(members).double().cpu().numpy() ** 2
        self.module.zero_grad(set_to_none=True)
        return found


def _without(
    module: nn.Module, example: Tensor, removed: Mapping[PrunableGroup, Sequence[int]]
) -> nn.Module:
    """The module itself after channels of its groups were removed."""
    graph = _graph(module, example)
    for group, channels in removed.items():
        if len(channels):
            _group(module, graph, group.name, channels).prune()
    for group, channels in removed.items():
        for layer in group.layers:
            left = _outputs(module.get_submodule(layer))
            if left != group.width - len(channels):
                raise InvalidValueError(
                    f"Torch-Pruning left {left} channels of {layer} instead of "
                    f"{group.width - len(channels)}: the module cannot be pruned"
                )
    return module


def removed_channels(importances: Floats, width: int) -> list[int]:
    """The least important channels of a group beyond ``width``, ascending."""
    order = np.argsort(importances, kind="stable")
    return sorted(order[: len(importances) - width].tolist())


def _torch_pruning() -> Any:
    with needing("nas"):
        import torch_pruning  # type: ignore[import-untyped]

    return torch_pruning


def _graph(module: nn.Module, example: Tensor) -> Any:
    """Torch-Pruning's graph of the module, whose parameters all get a gradient for it."""
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    pruning = _torch_pruning()
    try:
        with torch.enable_grad():
            return pruning.DependencyGraph().build_dependency(module, example_inputs=example)
    except Exception as error:  # whatever Torch-Pruning or code of the module raises
        raise InvalidValueError(
            f"Torch-Pruning cannot follow the channels of {type(module).__name__} "
            f"({type(error).__name__}: {in_one_line(error)}): prune another network"
        ) from error


def _group(module: nn.Module, graph: Any, name: str, channels: Sequence[int]) -> Any:
    """Torch-Pruning's group of some channels that a layer makes."""
    pruning, layer = _torch_pruning(), module.get_submodule(name)
    if isinstance(layer, nn.Linear):
        function = pruning.prune_linear_out_channels
    else:
        function = pruning.prune_conv_out_channels
    return graph.get_pruning_group(layer, function, idxs=list(channels))


def _stop_reading(members: Any, graph: Any) -> None:
    """Set the weights to zero by which layers read the channels of a Torch-Pruning group."""
    for dependency, channels in members:
        layer = dependency.target.module
        reads = graph.is_in_channel_pruning_fn(dependency.handler)
        if reads and isinstance(layer, nn.Conv2d | nn.Linear) and not _is_depthwise(layer):
            layer.weight.data[:, channels] = 0.0


def _outputs(layer: nn.Module) -> int:
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    assert isinstance(outputs, int)
    return outputs


def layers_of(group: ChannelGroup, channels: Channels) -> tuple[str, ...]:
    """Names of the module's layers that make a group of its ONNX model, in order."""
    nodes = channels.trace.graph.nodes
    weights = [nodes[number].input[1] for number, _ in group.producers]
    return tuple(name.removesuffix(_WEIGHT) for name in weights if name.endswith(_WEIGHT))


def _matching(module: nn.Module, graph: Any, channels: Channels) -> tuple[PrunableGroup, ...]:
    """Groups of the ONNX model that Torch-Pruning finds as well."""
    modules = dict(module.named_modules())
    names = {each: name for name, each in modules.items()}
    found = []
    groups_of = Counter(
        layer for group in channels.groups for layer in set(layers_of(group, channels))
    )
    for group in channels.groups:
        layers = layers_of(group, channels)
        if any(groups_of[layer] > 1 for layer in layers):
            continue  # the layer runs at several places, or shares its weight with another one
        single = all(times == 1 for _, times in group.producers)
        known = all(isinstance(modules.get(name), nn.Conv2d | nn.Linear) for name in layers)
        if not single or not known or len(layers) < len(group.producers):
            continue
        members = _group(module, graph, layers[0], [0])
        whole = not any(_is_grouped(dependency.target.module) for dependency, _ in members)
        if whole and _makers(members, graph, names) == set(layers):
            found.append(PrunableGroup(layers[0], group.width, layers))
    return tuple(found)


def _is_grouped(layer: nn.Module) -> bool:
    """Whether a layer is a grouped convolution and not a depthwise one."""
    return isinstance(layer, nn.Conv2d) and 1 < layer.groups < layer.out_channels


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.out_channels > 1


def _makers(members: Any, graph: Any, names: Mapping[nn.Module, str]) -> set[str]:
    """Layers that make the channels of a Torch-Pruning group; depthwise ones pass them on."""
    made = set()
    for dependency, _ in members:
        layer = dependency.target.module
        if (
            isinstance(layer, nn.Conv2d | nn.Linear)
            and graph.is_out_channel_pruning_fn(dependency.handler)
            and not _is_depthwise(layer)
        ):
            made.add(names[layer])
    return made
