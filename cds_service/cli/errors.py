"""What a command says when it cannot go on: one sentence, with the next thing to try."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot do what was asked; the message says what would help."""
