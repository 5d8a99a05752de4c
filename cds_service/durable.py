"""`open_state`: the durable state that the settings name, ready to answer calls."""

from __future__ import annotations

from cds_service.settings import Settings, SettingsError
from cds_service.state.errors import StateError
from cds_service.state.feed import Repository
from cds_service.state.store import Store
from cds_service.trust.origins import read_base

MIB = 1024 * 1024


def _repository(settings: Settings) -> Repository | None:
    if settings.audit_repository == "off":
        return None
    ca_bundle = str(settings.ca_bundle) if settings.ca_bundle else None
    return Repository(read_base(settings.audit_repository), settings.audit_token_file, ca_bundle)


def open_state(settings: Settings, *, outbox: bool = True) -> Store:
    """Raises SettingsError for a URL or a folder that cannot be used. `outbox`: for whoever answers calls."""
    try:
        return Store.open(
            settings.state_url,
            settings.state_dir,
            outbox_bytes=settings.outbox_mb * MIB if outbox else 0,
            owner_url=settings.state_owner_url,
            repository=_repository(settings) if outbox else None,
        )
    except StateError as error:
        raise SettingsError(f"ORDERSIGHT_STATE_URL: {error}") from None
    except OSError:
        raise SettingsError(
            f"ORDERSIGHT_STATE_DIR is {str(settings.state_dir)!r}; write a folder we may write to"
        ) from None
