"""Tasks: the purpose of a network's training. A new one is one file and one line in ``TASKS``.

A data set names its task (``ImageData.task``). Searches and trainings get the loss, the fitness of
outputs and the final metrics from the task, and know nothing else about it.
"""

from __future__ import annotations

import torch

from latbench.registry import Registry
from nas.data.images import ImageData
from nas.tasks.base import CPU, Task

TASKS: Registry[type[Task]] = Registry(
    "task",
    {
        "classification": "nas.tasks.classification:Classification",
        "face-recognition": "nas.tasks.face_recognition:FaceRecognition",
    },
    group="latbench.tasks",
)


def task_of(data: ImageData, device: torch.device = CPU) -> Task:
    """The task of a data set.

    Args:
        data: The data set.
        device: Device of the networks that are evaluated.

    Raises:
        UnknownNameError: There is no task with this name.
    """
    return TASKS[data.task](data, device)


__all__ = ["TASKS", "Task", "task_of"]
