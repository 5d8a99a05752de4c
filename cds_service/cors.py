"""Which browsers may read our answers."""

from __future__ import annotations

from cds_service.settings import Settings


def cors_headers(origin: str, settings: Settings) -> dict[str, str]:
    """What lets a browser at an allowed origin read the answer; never with credentials, never for any origin."""
    headers = {"Vary": "Origin"}
    if origin in settings.cors_origins:
        headers |= {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
            "Access-Control-Allow-Headers": "authorization, content-type, accept",
            "Access-Control-Expose-Headers": "retry-after, www-authenticate",
            "Access-Control-Max-Age": "600",
        }
    return headers
