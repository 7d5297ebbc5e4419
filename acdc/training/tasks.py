"""The tasks by the kind of a data set."""

from __future__ import annotations

from acdc.training.images import ImageTask
from acdc.training.task import Task
from acdc.training.text import TextTask

TASKS: dict[str, type[Task]] = {"images": ImageTask, "text": TextTask}
