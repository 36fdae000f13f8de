"""Face recognition: embeddings, the angular margin, accuracy of verification.

The outputs of the network are the embedding. Two images show one person if the squared distance of
their embeddings, scaled to length 1, is below a threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latbench.errors import MismatchError
from nas.criteria.triplet import squared_distances
from nas.data.images import Pairs
from nas.tasks.base import Model, Task

_BATCH = 128
_STEP, _LARGEST = 0.01, 4.0  # step and end of the thresholds on the squared distance


class FaceRecognition(Task):
    """Recognition of people, verified on pairs of people that are not in the training images."""

    criterion_name = "angular"
    scratch_criterion = "angular"
    metric = "accuracy"
    embeds = True
    fitness_name = "loss"

    @torch.no_grad()
    def fitness(self, outputs: Tensor, labels: Tensor, criterion: nn.Module) -> Tensor:
        """Minus the loss, because the network does not output the identity of an image."""
        loss: Tensor = criterion(outputs, labels)
        return -loss

    @staticmethod
    def shown(fitness: float) -> str:
        return f"{-fitness:.3f}"

    @torch.no_grad()
    def test(self, model: Model) -> dict[str, float]:
        """``accuracy`` of verification, a fraction, and the mean ``threshold``."""
        pairs = self.data.pairs
        if pairs is None:
            raise MismatchError(f"{self.data.name} has no pairs to verify")
        accuracy, threshold = verify(embedding_distances(model, pairs, self), pairs)
        return {"accuracy": accuracy, "threshold": threshold}


def embedding_distances(model: Model, pairs: Pairs, task: Task) -> Tensor:
    """Squared distance of the two embeddings of every pair, ``(P,)``; each image is read once."""
    rng = torch.Generator()  # test images draw nothing
    order = torch.split(torch.arange(len(pairs.images)), _BATCH)
    embeddings = torch.cat(
        [model(images).float().cpu() for images, _ in task.inputs(pairs.images.read(order, rng))]
    )
    return squared_distances(embeddings[pairs.first], embeddings[pairs.second])


def verify(distances: Tensor, pairs: Pairs) -> tuple[float, float]:
    """Accuracy over folds, and the mean threshold: LFW's protocol (Huang et al. 2007).

    Each fold is evaluated with the threshold that is best on the other folds, from 0 to 4 in steps
    of 0.01; the lowest of equally good ones. A pair below the threshold shows one person.
    """
    thresholds = torch.arange(0, _LARGEST, _STEP, dtype=torch.float64)  # (T,)
    right = (distances.double()[:, None] < thresholds) == pairs.same[:, None]  # (P, T)
    accuracies, chosen = [], []
    for fold in range(int(pairs.fold.max()) + 1):
        here = pairs.fold == fold
        best = int(right[~here].float().mean(0).argmax())
        accuracies.append(float(right[here, best].float().mean()))
        chosen.append(float(thresholds[best]))
    return sum(accuracies) / len(accuracies), sum(chosen) / len(chosen)
