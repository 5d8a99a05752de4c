"""The socket that callers connect to, bound before anything slow is begun."""

from __future__ import annotations

import socket

from cds_service.settings import Settings, SettingsError


class CannotListen(SettingsError):
    """The address is taken or not ours."""


def bind(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say. Raises CannotListen."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise CannotListen(
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror}; "
            "choose others with ORDERSIGHT_HOST and ORDERSIGHT_PORT"
        ) from None
