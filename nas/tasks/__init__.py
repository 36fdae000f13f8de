"""What a network is trained for. A new task is one file here and one line in ``TASKS``.

A data set says its task (``ImageData.task``); searches and trainings ask the task for the loss, for
how good outputs are and for the final metrics, and know nothing else about it.
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
        device: Where networks compute that are judged.

    Raises:
        UnknownNameError: There is no task of its name.
    """
    return TASKS[data.task](data, device)


__all__ = ["TASKS", "Task", "task_of"]
