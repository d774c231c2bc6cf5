"""Errors of the export commands; a command prints the message and exits with code 1."""

from __future__ import annotations


class ExportError(Exception):
    """Something cannot become an artefact. The message names the thing, what was found and what was expected."""


class ParityError(ExportError):
    """The exported graph does not say what the model says."""


class PackError(ExportError):
    """A model of the user's own does not fit the contract. `reasons` holds one sentence per fault."""

    def __init__(self, reasons: list[str]) -> None:
        self.reasons = reasons
        super().__init__("the model cannot be packed:\n" + "\n".join(f"  - {reason}" for reason in reasons))
