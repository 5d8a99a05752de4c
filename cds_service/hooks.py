"""`HookRequest`: a hook call, read leniently and typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class HookRequest:
    hook: str
    hook_instance: str
    context: Any
    prefetch: Mapping[str, msgspec.Raw]
    fhir_server: str | None
    fhir_authorization: Any = field(repr=False)
    received_at: datetime = field(kw_only=True)

    def drafts(self) -> tuple[Mapping[str, Any], ...]:
        """The draft resources of the context, as sent."""
        raise NotImplementedError
