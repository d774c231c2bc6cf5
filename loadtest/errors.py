"""Errors a load test ends with. The command line prints their message and exits with code 1."""

from __future__ import annotations


class LoadtestError(Exception):
    """Root of the tree; the message names the thing, what was found and what was expected."""


class InputError(LoadtestError):
    """A file or an option given to a load test cannot be used."""


class ServiceError(LoadtestError):
    """The service is not reachable, or answered something that a test cannot go on with."""
