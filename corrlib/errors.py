"""The one exception a user is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: what was expected, what came, what to do. The command line prints it
    and exits with status 2; in a notebook it is an ordinary ``ValueError``.
    """
