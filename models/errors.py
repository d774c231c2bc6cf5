"""Every error the offline half raises on purpose.

    ModelsError
    ├── DatasetError      a dataset folder or a raw file cannot be read, or does not hold what was asked of it
    ├── KnowledgeError    a knowledge folder is missing something or belongs to another dataset
    ├── ConfigError       a training configuration has an unknown key or an impossible value
    └── RunError          a run directory cannot be read, resumed or written

A command prints the message and exits with code 1; a message names the thing, what was found and what was expected.
"""

from __future__ import annotations


class ModelsError(Exception):
    """Root of the tree."""


class DatasetError(ModelsError):
    """A dataset folder or raw file is missing, unreadable or lacks what was asked of it."""


class KnowledgeError(ModelsError):
    """A knowledge folder is incomplete, or its ids are not those of the dataset."""


class ConfigError(ModelsError):
    """A configuration file has an unknown key, a wrong type or an impossible value."""


class RunError(ModelsError):
    """A run directory is missing, incomplete or was made with something else."""
