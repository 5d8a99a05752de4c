"""Who may see a card's evidence: whoever brings its key first, and then that browser alone, until the time is over."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from typing import Literal

from cds_service.pages.links import EvidenceLinks, place
from cds_service.pages.seal import ID_BYTES, WrongKey, known_as, new_secret, unseal
from cds_service.state.sealed import Found, Part

VISIT_BYTES = 16
WAIT_S = 2.0
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,64}\Z")
Reason = Literal["unknown", "opened", "expired"]


class Refused(Exception):
    """Why nothing is shown. `unknown` is also the answer to a wrong key: the two cannot be told apart."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Pass:
    """What the browser holds after opening: the key, and the secret of its visit; both only in its cookie."""

    key: str
    visit: str

    @classmethod
    def read(cls, cookie: str) -> Pass | None:
        key, _, visit = cookie.partition(".")
        return cls(key, visit) if _SECRET.match(key) and _SECRET.match(visit) else None

    def __str__(self) -> str:
        return f"{self.key}.{self.visit}"


def knock(links: EvidenceLinks, link_id: str, held: Pass | None) -> tuple[Found, bool]:
    """The row; True where `held` opens it again, False where its key is still to be brought. Raises Refused."""
    found = _find(links, link_id, "page")
    if held is not None and _same_visit(found, held):
        return found, True
    if found.opened_at is not None:
        raise Refused("opened")
    return found, False


def open_first(links: EvidenceLinks, link_id: str, key: str, held: Pass | None) -> tuple[Pass, Found]:
    """Open with the link's key. Exactly one of several at once succeeds; the browser that did may do it again."""
    found = _find(links, link_id, "page")
    if not _SECRET.match(key):
        raise Refused("unknown")
    # Before anything is said or spent: a wrong key learns nothing of a link, not even that it was opened.
    _unsealed(found, link_id, key, "page")
    if held is not None and _same_visit(found, held):
        return held, found
    if found.opened_at is not None:
        raise Refused("opened")
    new = Pass(key, new_secret(VISIT_BYTES))
    if not links.store.open(known_as(link_id), known_as(new.visit), links.now()):
        raise Refused("opened")
    return new, found


def peek(links: EvidenceLinks, link_id: str, key: str) -> tuple[Found, bytes]:
    """The row and its page in the clear, for whoever has the key; nothing is spent by it. Raises Refused."""
    found = _find(links, link_id, "page")
    if not _SECRET.match(key):
        raise Refused("unknown")
    return found, _unsealed(found, link_id, key, "page")


def read_part(links: EvidenceLinks, link_id: str, held: Pass | None, part: Part) -> bytes:
    """The sealed part in the clear, for the browser that opened it. Raises Refused."""
    found = _find(links, link_id, part)
    if held is None or not _same_visit(found, held):
        raise Refused("opened" if found.opened_at is not None else "unknown")
    return _unsealed(found, link_id, held.key, part)


def _find(links: EvidenceLinks, link_id: str, part: Part) -> Found:
    if not _SECRET.match(link_id) or len(link_id) != (ID_BYTES * 8 + 5) // 6:
        raise Refused("unknown")
    id_ = known_as(link_id)
    links.wait(id_, WAIT_S)
    found = links.store.find(id_, part)
    if found is None:
        raise Refused("unknown")
    if found.expires <= links.now():
        raise Refused("expired")
    return found


def _same_visit(found: Found, held: Pass) -> bool:
    return bool(found.visit) and hmac.compare_digest(found.visit, known_as(held.visit))


def _unsealed(found: Found, link_id: str, key: str, part: Part) -> bytes:
    if not found.sealed:
        raise Refused("unknown")
    try:
        return unseal(found.sealed, key, place(found.tenant, known_as(link_id), part))
    except WrongKey:
        raise Refused("unknown") from None
