"""Kinds of task beyond those of `objectives.data`; see `TASK_KINDS`, which loads them by name."""
