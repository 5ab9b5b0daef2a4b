"""Whether the inputs that reach a network have the side that its candidate says: what is claimed of it is then true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor, nn

from ...spaces import Candidate, Space

WRONG_SIDE: Final = "WrongSide"  # how the reason of a trial begins that found its task out


class WrongSide(ValueError):
    """A network was given inputs of another side than its candidate's."""


@dataclass(frozen=True)
class SideCheck:
    """A hook that holds what a network is called with in eval mode against its candidate's side.

    Training may show other sides, as multi-scale training does; what a network is judged by may not.

    Attributes:
        side: of the candidate.
        spatial: for each input in order whether it has a side.
        names: of the inputs; empty where they go by position.
    """

    side: tuple[int, ...]
    spatial: tuple[bool, ...]
    names: tuple[str, ...]

    def __call__(self, network: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse the call.

        Raises:
            WrongSide: an input is of another side.
        """
        if network.training:
            return
        known = dict(zip(self.names, self.spatial, strict=False))
        tensors = [one for one in args if isinstance(one, Tensor)]
        places = dict(enumerate(self.spatial))
        given = [(f"input {place}", one) for place, one in enumerate(tensors) if places.get(place)]
        given += [(name, one) for name, one in kwargs.items() if known.get(name) and isinstance(one, Tensor)]
        for name, tensor in given:
            found = tuple(tensor.shape[2:])
            if len(found) == len(self.side) and found != self.side:
                raise WrongSide(
                    f"{name} has the side {_times(found)} where the candidate's is {_times(self.side)}, so its costs "
                    "and what is exported would not be those of the network that is judged; the task's "
                    "loader(split, resolution, seed) must give inputs of the resolution that it is asked for"
                )


def watched(network: nn.Module, space: Space, candidate: Candidate) -> nn.Module:
    """The network, where sides are searched: from now on it refuses inputs of another one than its candidate's."""
    inputs, names = space.settings["inputs"], space.settings["names"] or ()
    check = SideCheck(space.side(candidate), tuple(one["spatial"] for one in inputs), tuple(names))
    network.register_forward_pre_hook(check, with_kwargs=True)
    return network


def _times(side: tuple[int, ...]) -> str:
    return "x".join(map(str, side))
