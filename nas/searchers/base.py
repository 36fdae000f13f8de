"""What a searcher is given and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nas.data.images import ImageData
from nas.priced import PricedSpace
from nas.scaling import check_reach
from nas.spaces import Architecture
from nas.training.run_folder import RunFolder

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class SearchSettings:
    """What every searcher can be asked.

    Attributes:
        epochs: Length of the schedule; None is the published one.
        batch_size: Images a step; None is the published number.
        seed: Of weights, paths and the order of images.
    """

    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class SearchResult:
    """The architecture found for one target.

    Attributes:
        score: Accuracy on held-out training images with the supernet's weights, a fraction.
    """

    target_ms: float
    latency_ms: float
    score: float
    architecture: Architecture

    def as_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {
            "target_ms": self.target_ms,
            "latency_ms": self.latency_ms,
            "score": self.score,
            "architecture": self.architecture.as_dict(),
        }


class Searcher(ABC):
    """Finds architectures under latency budgets."""

    def __init__(self, priced: PricedSpace, settings: SearchSettings) -> None:
        self.priced = priced
        self.settings = settings

    def search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        *,
        progress: Progress = lambda fraction, words: None,
    ) -> list[SearchResult]:
        """Find an architecture for every target, in the order asked.

        An interrupted search goes on from its last finished epoch when called again with the
        same folder, and ends bit-identical to an uninterrupted one.

        Raises:
            BudgetError: A target is out of the space's reach; nothing was trained yet.
        """
        self.check_targets(targets_ms)
        return self._search(data, targets_ms, folder, progress)

    def check_targets(self, targets_ms: Sequence[float]) -> None:
        """Refuse targets that no architecture of the space reaches.

        Raises:
            BudgetError: With the nearest feasible latency.
        """
        low_ms, high_ms = self.priced.reachable_ms()
        for target_ms in targets_ms:
            check_reach(target_ms, low_ms, high_ms, what=f"space {self.priced.space.name}")

    @abstractmethod
    def _search(
        self,
        data: ImageData,
        targets_ms: Sequence[float],
        folder: RunFolder,
        progress: Progress,
    ) -> list[SearchResult]:
        """The search itself, on targets that can be reached."""
