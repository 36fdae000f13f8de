"""Classification: logits, cross entropy, top-1 and top-5 accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas.data.images import batches, generator
from nas.tasks.base import EVALUATION_BATCH_SIZE, Model, Task


class Classification(Task):
    """One class per image."""

    criterion_name = "cross-entropy"
    scratch_criterion = "label-smoothing"
    metric = "top1"
    fitness_name = "accuracy"

    def fitness(self, outputs: Tensor, labels: Tensor, criterion: nn.Module) -> Tensor:
        """Top-1 accuracy."""
        return (outputs.argmax(1) == labels).float().mean()

    @staticmethod
    def shown(fitness: float) -> str:
        return f"{fitness:.1%}"

    @torch.no_grad()
    def test(self, model: Model) -> dict[str, float]:
        """``top1`` and ``top5`` on the test images, fractions."""
        data = self.data
        hits = []  # read after everything is computed
        shown = batches(data.test, EVALUATION_BATCH_SIZE, generator(0), drop_last=False)
        for images, labels in self.inputs(shown):
            logits = model(images)
            ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
            hits.append(torch.stack([ranked[:, 0].sum(), ranked.any(dim=1).sum()]))
        first, fifth = torch.stack(hits).sum(0).cpu().tolist()
        return {"top1": first / len(data.test), "top5": fifth / len(data.test)}
