"""What can go wrong with durable state. No message holds a value of a request or a record."""

from __future__ import annotations


class StateError(Exception):
    """Durable state cannot do what was asked; the message says what would help."""


class StateUnavailable(StateError):
    """The store cannot take or give anything just now (locked, gone, full): the caller may ask again."""


class SchemaMismatch(StateError):
    """The database has another schema than this release: older, then upgrade; unknown, then a newer release."""


class BackupError(StateError):
    """A backup could not be made, or is not what its manifest says."""
