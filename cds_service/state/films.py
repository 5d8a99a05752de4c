"""Films encoded ahead, and the queue of those still to be: sealed rows that name neither patient nor study.

A film is found by tenant, patient, study and encoder, never by tenant and study alone: what was kept for one patient
cannot turn up on another's order. The queue is at-least-once: a job whose worker dies is taken again when its lease
ends, and encoding a film twice does no harm.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import ColumnElement, Connection, and_, delete, func, select, update

from cds_service.state.keys import Keys
from cds_service.state.reader import Reader
from cds_service.state.tables import film_cache, film_jobs, insert_new, meta, upsert
from cds_service.state.tenancy import as_tenant
from cds_service.state.writer import Writer

WAIT_S = 5.0
NONCE_BYTES = 12
ATTEMPTS = 6
"""After so many failures a job is dead: it is kept, counted, and taken again only when told so or noted anew."""
FIRST_WAIT = timedelta(seconds=10)
"""Before the second attempt; each later one waits four times as long, 43 minutes before the sixth."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job in hand until `until`; `data` is what its maker put in."""

    tenant: str
    name: str
    attempts: int
    until: datetime
    data: bytes


@dataclass(frozen=True, slots=True)
class Depth:
    """waiting: due or to be due; dead: given up; films and bytes: kept in the cache."""

    waiting: int
    dead: int
    films: int
    bytes: int


class FilmRows:
    """The cache and the queue in the state database; every method raises StateUnavailable where it gives no answer."""

    def __init__(self, writer: Writer, care: Writer, reader: Reader, keys: Keys) -> None:
        self._writer = writer
        self._care = care
        self._reader = reader
        self._keys = keys
        self._cipher = AESGCM(keys.sealing("films"))

    # The cache --------------------------------------------------------------------------------------------------

    def keep(
        self,
        tenant: str,
        patient: str,
        study: str,
        film: str,
        *,
        pixels: str,
        encoder: str,
        data: bytes,
        now: datetime,
        expires: datetime,
    ) -> None:
        """Keep an encoding under its film's SOP instance UID; one of other pixels under the same UID is replaced."""
        key = self._keys.of("film", tenant, film)
        place = f"{tenant}\n{key}\n{pixels}\n{encoder}"
        row = {
            "tenant": tenant,
            "film_key": key,
            "pixels": pixels,
            "encoder": encoder,
            "study_key": self._keys.of("study", tenant, study),
            "patient_key": self._keys.of("patient", tenant, patient),
            "made_at": now,
            "expires": expires,
            "bytes": len(data),
            "sealed": self._seal(data, place),
        }
        same = (film_cache.c.tenant == tenant, film_cache.c.film_key == key, film_cache.c.encoder == encoder)

        def work(conn: Connection) -> None:
            conn.execute(delete(film_cache).where(*same, film_cache.c.pixels != pixels))
            upsert(conn, film_cache, row)

        self._writer.run(work, WAIT_S, tenant)

    def find(
        self, tenant: str, patient: str, studies: Sequence[str], encoder: str, now: datetime, timeout: float
    ) -> list[bytes]:
        """The encodings of this patient's films in these studies."""
        wanted = [self._keys.of("study", tenant, study) for study in studies]
        query = select(film_cache.c.film_key, film_cache.c.pixels, film_cache.c.sealed).where(
            film_cache.c.tenant == tenant,
            film_cache.c.study_key.in_(wanted),
            film_cache.c.encoder == encoder,
            film_cache.c.patient_key == self._keys.of("patient", tenant, patient),
            film_cache.c.expires > now,
        )

        def work(conn: Connection) -> list[tuple[str, str, bytes]]:
            as_tenant(conn, tenant)
            return [tuple(row) for row in conn.execute(query)]

        found = []
        for key, pixels, sealed in self._reader.within(work, timeout):
            data = self._unseal(sealed, f"{tenant}\n{key}\n{pixels}\n{encoder}")
            if data is not None:
                found.append(data)
        return found

    def sweep(self, now: datetime, most_bytes: int) -> int:
        """Remove what has expired, and the oldest beyond `most_bytes` of all tenants; how many films that were."""

        def work(conn: Connection) -> int:
            gone = conn.execute(delete(film_cache).where(film_cache.c.expires <= now)).rowcount
            left = conn.execute(select(func.coalesce(func.sum(film_cache.c.bytes), 0))).scalar_one()
            if left <= most_bytes:
                return gone
            key = list(film_cache.primary_key)
            for row in conn.execute(select(*key, film_cache.c.bytes).order_by(film_cache.c.made_at)).all():
                if left <= most_bytes:
                    break
                conn.execute(delete(film_cache).where(*(c == v for c, v in zip(key, row[:-1], strict=True))))
                left -= row[-1]
                gone += 1
            return gone

        return self._care.run(work, WAIT_S)

    # The queue --------------------------------------------------------------------------------------------------

    def job_name(self, tenant: str, *parts: str) -> str:
        """Under which the same wish, made twice, is one job."""
        return self._keys.of("film-job", tenant, *parts)

    def put(self, tenant: str, patient: str, name: str, data: bytes, now: datetime) -> Future[None]:
        """Queue a job, durable once the future has ended; one that waits already stays, a dead one lives again.

        `patient` is empty where only the EHR knows whose film it is; such a job is not found when one is erased.
        """
        row = {
            "tenant": tenant,
            "name": name,
            "patient_key": self._keys.of("patient", tenant, patient) if patient else "",
            "made_at": now,
            "due": now,
            "attempts": 0,
            "dead": False,
            "reason": "",
            "sealed": self._seal(data, f"{tenant}\n{name}"),
        }

        def work(conn: Connection) -> None:
            dead = (film_jobs.c.tenant == tenant, film_jobs.c.name == name, film_jobs.c.dead.is_(True))
            conn.execute(delete(film_jobs).where(*dead))
            insert_new(conn, film_jobs, row)

        return self._writer.submit(work, tenant)

    def take(self, now: datetime, lease: timedelta) -> Job | None:
        """The job that has been due longest, whosever it is; nobody else gets it before the lease ends.

        A job that was taken `ATTEMPTS` times and never ended has killed its workers: it is given up.
        """
        due = and_(film_jobs.c.dead.is_(False), film_jobs.c.due <= now)

        def work(conn: Connection) -> Job | None:
            conn.execute(
                update(film_jobs).where(due, film_jobs.c.attempts >= ATTEMPTS).values(dead=True, reason="never-ended")
            )
            query = select(film_jobs).where(due).order_by(film_jobs.c.due).limit(1).with_for_update(skip_locked=True)
            row = conn.execute(query).mappings().first()
            if row is None:
                return None
            data = self._unseal(row["sealed"], f"{row['tenant']}\n{row['name']}")
            mine = and_(film_jobs.c.tenant == row["tenant"], film_jobs.c.name == row["name"])
            if data is None:  # sealed under a secret that is gone: nobody can read it any more
                conn.execute(update(film_jobs).where(mine).values(dead=True, reason="sealed"))
                return None
            until, attempts = now + lease, row["attempts"] + 1
            conn.execute(update(film_jobs).where(mine).values(due=until, attempts=attempts))
            return Job(row["tenant"], row["name"], attempts, until, data)

        return self._care.run(work, WAIT_S)

    def done(self, job: Job) -> None:
        """Forget a job that was carried out, unless its lease ran out and another has it."""
        self._care.run(lambda conn: conn.execute(delete(film_jobs).where(_held(job))), WAIT_S)

    def failed(self, job: Job, reason: str, now: datetime, *, for_good: bool = False) -> None:
        """Try again later, or give up after `ATTEMPTS`; `reason` is of a closed set, and names nothing of a patient."""
        dead = for_good or job.attempts >= ATTEMPTS
        due = now + FIRST_WAIT * 4 ** (job.attempts - 1)
        values = {"dead": dead, "reason": reason, "due": due}
        self._care.run(lambda conn: conn.execute(update(film_jobs).where(_held(job)).values(values)), WAIT_S)

    def revive(self, now: datetime) -> int:
        """Give every dead job its attempts anew; how many there were."""
        values = {"dead": False, "attempts": 0, "due": now, "reason": ""}
        again = update(film_jobs).where(film_jobs.c.dead.is_(True)).values(values)
        return self._care.run(lambda conn: conn.execute(again).rowcount, WAIT_S)

    def depth(self) -> Depth:
        """Of all tenants together."""

        def query(conn: Connection) -> Depth:
            counted = conn.execute(select(film_jobs.c.dead, func.count()).group_by(film_jobs.c.dead)).all()
            jobs = {bool(dead): n for dead, n in counted}
            kept = select(func.count(), func.coalesce(func.sum(film_cache.c.bytes), 0)).select_from(film_cache)
            films, size = conn.execute(kept).one()
            return Depth(jobs.get(False, 0), jobs.get(True, 0), films, int(size))

        return self._reader.study(query)

    def dead(self) -> Mapping[str, int]:
        """How many jobs were given up, by reason."""
        query = select(film_jobs.c.reason, func.count()).where(film_jobs.c.dead.is_(True)).group_by(film_jobs.c.reason)
        return self._reader.study(lambda conn: {str(row[0]): int(row[1]) for row in conn.execute(query)})

    # How far servers were read --------------------------------------------------------------------------------

    def read_until(self, source: str) -> datetime | None:
        """Up to which moment the studies of this source have been queued; None for one never read."""
        name = f"films_read:{self._keys.of('films-read', source)}"
        value = self._reader.study(lambda conn: conn.execute(select(meta.c.value).where(meta.c.name == name)).scalar())
        return None if value is None else datetime.fromisoformat(value)

    def have_read(self, source: str, until: datetime) -> None:
        row = {"name": f"films_read:{self._keys.of('films-read', source)}", "value": until.isoformat()}
        self._writer.run(lambda conn: upsert(conn, meta, row), WAIT_S)

    # Sealing ----------------------------------------------------------------------------------------------------

    def _seal(self, data: bytes, place: str) -> bytes:
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, data, place.encode())

    def _unseal(self, sealed: bytes, place: str) -> bytes | None:
        """None for what was sealed elsewhere, or under another secret."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], place.encode())
        except (InvalidTag, ValueError):
            return None


def _held(job: Job) -> ColumnElement[bool]:
    """The row of a job as long as nobody else has taken it."""
    return and_(film_jobs.c.tenant == job.tenant, film_jobs.c.name == job.name, film_jobs.c.due == job.until)
