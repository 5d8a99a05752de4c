"""`Care`: the part of the store that looks after what is kept: reports, the audit, backups, terms and erasure."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from cds_service.state import audit, outbox, reports
from cds_service.state import backup as backups
from cds_service.state import retention as keeping
from cds_service.state.engines import Engines, patiently, place, scrub, told_plainly
from cds_service.state.errors import StateUnavailable
from cds_service.state.keeper import Keeper, now_utc
from cds_service.state.reader import Reader
from cds_service.state.records import AuditVerdict, FeedbackReport
from cds_service.state.writer import Writer

log = logging.getLogger("cds_service.state")


class Care:
    """Sees all tenants at once, and may take as long as it needs; none of it is on a call's way."""

    _engines: Engines
    _folder: Path
    _care: Writer
    _reader: Reader
    _keeper: Keeper

    def feedback_report(
        self, since: datetime, until: datetime, *, tenant: str | None = None, service: str | None = None
    ) -> FeedbackReport:
        """Per rule what was shown and what became of it; `tenant` None is for the administrator of all."""
        return self._reader.study(lambda conn: reports.report(conn, tenant, since, until, service))

    def export_feedback(self, tenant: str | None = None, *, comments: bool = False) -> Iterator[Mapping[str, Any]]:
        with told_plainly(), self._engines.overseers.connect() as conn:
            yield from reports.export(patiently(conn), tenant, comments=comments)

    def verify_audit(self) -> AuditVerdict:
        """Check every audit chain, also against the anchors in the state folder; chains that hold are anchored anew."""
        path = self._folder / audit.ANCHORS
        verdict = audit.verify(self._engines.overseers, path)
        if verdict.ok:
            try:
                audit.write_anchors(path, verdict.heads, now_utc())
            except StateUnavailable as error:
                log.warning("audit chains not anchored", extra={"fields": {"why": str(error)}})
        return verdict

    def export_audit(self, tenant: str | None = None, *, fhir: bool = False) -> Iterator[bytes]:
        """Lines of JSON that `audit.verify_export` can follow without the database, or FHIR R4 AuditEvents."""
        return audit.export(self._engines.overseers, tenant, fhir=fhir)

    def backup(self, target: Path) -> backups.Manifest:
        """Write a backup folder while everything goes on; what the outbox holds is stored first if it can be."""
        self.replay_outbox()
        return backups.backup(self._engines.owner_url, self._folder, target, now_utc())

    @staticmethod
    def restore(source: Path, url: str, folder: Path | None = None) -> backups.Manifest:
        """Fill an empty database and folder from a backup and verify it. Raises BackupError."""
        parsed, folder = place(url, folder)
        return backups.restore(source, parsed, folder)

    def retention(self, now: datetime, *, dry_run: bool, terms: keeping.Terms | None = None) -> dict[str, int]:
        """Remove what is past its term, or only count it; rows per table."""
        kept = terms or keeping.Terms()
        if dry_run:
            return self._reader.study(lambda conn: keeping.count(conn, now, kept))
        return keeping.run(self._care, now, kept)

    def erase(self, tenant: str, patient_key: str) -> keeping.Erasure:
        """Remove all about one patient but the audit rows, overwriting what lay in the file.

        Raises StateUnavailable while an outbox still holds answers: they could bring the patient back.
        """
        self.replay_outbox()
        if outbox.waiting(self._folder):
            raise StateUnavailable("answers still wait in an outbox: try again when the database has taken them")
        erased = keeping.erase(self._care, patient_key, tenant, now_utc())
        scrub(self._engines.owner_url)
        return erased

    def replay_outbox(self) -> int:
        """Bring what waits in the local files into the database. Raises StateUnavailable when it takes nothing."""
        return self._keeper.replay()
