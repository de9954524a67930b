"""The error of arguments that make no sense together: exit status 2."""

from __future__ import annotations


class Failure(Exception):
    """The arguments make no sense together."""
