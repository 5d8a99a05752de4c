"""Encoded films and their queue, on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cds_service.state.films import ATTEMPTS, FIRST_WAIT, Job
from cds_service.state.store import Store

NOW = datetime(2026, 3, 10, 8, tzinfo=UTC)
LEASE = timedelta(minutes=2)
ENCODER = "e" * 64


def keep(store: Store, tenant: str = "north", patient: str = "p1", film: str = "1.2.1", **more: object) -> None:
    given = {"pixels": "d" * 64, "encoder": ENCODER, "data": b"encoding", "now": NOW}
    given |= {"expires": NOW + timedelta(days=1)} | more
    store.films.keep(tenant, patient, "1.2", film, **given)  # type: ignore[arg-type]


def find(store: Store, tenant: str = "north", patient: str = "p1", now: datetime = NOW) -> list[bytes]:
    return store.films.find(tenant, patient, ["1.2", "1.3"], ENCODER, now, 5)


def put(store: Store, name: str = "job", tenant: str = "north", at: datetime = NOW) -> None:
    store.films.put(tenant, "p1", name, b"wish", at).result(5)


def take(store: Store, at: datetime = NOW) -> Job:
    job = store.films.take(at, LEASE)
    assert job is not None
    return job


def test_a_kept_film_is_found_for_its_own_patient_tenant_and_encoder_alone(store: Store) -> None:
    keep(store)
    assert find(store) == [b"encoding"]
    assert find(store, patient="p2") == []
    assert find(store, tenant="south") == []
    assert store.films.find("north", "p1", ["1.2"], "f" * 64, NOW, 5) == []
    assert store.films.find("north", "p1", ["1.9"], ENCODER, NOW, 5) == []


def test_other_pixels_under_the_same_uid_replace_what_was_kept(store: Store) -> None:
    keep(store)
    keep(store, pixels="c" * 64, data=b"newer")
    assert find(store) == [b"newer"]


def test_a_kept_film_is_gone_after_its_time_and_the_oldest_go_beyond_the_bound(store: Store) -> None:
    assert find(store, now=NOW + timedelta(days=2)) == []
    for number in range(5):
        keep(store, film=f"1.2.{number}", data=bytes(100), now=NOW + timedelta(minutes=number))
    keep(store, film="1.2.9", expires=NOW + timedelta(minutes=1))
    at = NOW + timedelta(hours=1)
    assert store.films.sweep(at, 1000) == 1  # the one that has expired
    assert store.films.sweep(at, 250) == 3
    assert store.films.depth().films == 2


def test_nothing_that_names_a_patient_or_a_film_lies_readable_in_the_database(store: Store, url: str) -> None:
    from sqlalchemy import create_engine, select, text

    from cds_service.state.tables import film_cache, film_jobs

    store.films.keep(
        "north", "patient-canary", "1.2.77", "1.2.77.1", pixels="d" * 64, encoder=ENCODER, data=b"view-canary",
        now=NOW, expires=NOW + timedelta(days=1),
    )  # fmt: skip
    store.films.put("north", "patient-canary", "j", b"wish-canary", NOW).result(5)
    with create_engine(url).connect() as conn:
        if conn.dialect.name == "postgresql":
            conn.execute(text("SELECT set_config('ordersight.everyone', 'on', false)"))  # as the tables' owner
        rows = [tuple(row) for table in (film_cache, film_jobs) for row in conn.execute(select(table))]
    assert len(rows) == 2
    told = repr(rows)
    assert not any(word in told for word in ("canary", "1.2.77"))


def test_a_job_is_one_worker_s_until_its_lease_ends_and_is_then_taken_again(store: Store) -> None:
    put(store)
    first = take(store)
    assert (first.tenant, first.data, first.attempts) == ("north", b"wish", 1)
    assert store.films.take(NOW + LEASE / 2, LEASE) is None
    second = take(store, NOW + LEASE)
    assert second.attempts == 2
    store.films.done(first)  # the first worker comes back late: the job is not its own any more
    assert store.films.depth().waiting == 1
    store.films.done(second)
    assert store.films.depth().waiting == 0


def test_the_same_wish_made_twice_is_one_job(store: Store) -> None:
    put(store)
    put(store)
    put(store, tenant="south")
    assert store.films.depth().waiting == 2


def test_a_job_that_fails_waits_longer_each_time_and_is_given_up_in_the_end(store: Store) -> None:
    put(store)
    at = NOW
    for attempt in range(1, ATTEMPTS + 1):
        job = take(store, at)
        assert job.attempts == attempt
        store.films.failed(job, "timeout", at)
        pause = FIRST_WAIT * 4 ** (attempt - 1)
        assert store.films.take(at + pause - timedelta(seconds=1), LEASE) is None
        at += pause
    assert store.films.take(at + timedelta(days=1), LEASE) is None
    assert store.films.dead() == {"timeout": 1}
    assert store.films.revive(at) == 1
    assert take(store, at).attempts == 1


def test_a_job_that_kills_every_worker_is_given_up(store: Store) -> None:
    put(store)
    at = NOW
    for _ in range(ATTEMPTS):
        take(store, at)
        at += LEASE
    assert store.films.take(at, LEASE) is None
    assert store.films.dead() == {"never-ended": 1}


def test_a_dead_job_lives_again_when_it_is_wished_for_anew(store: Store) -> None:
    put(store)
    store.films.failed(take(store), "not-allowed", NOW, for_good=True)
    assert store.films.depth().dead == 1
    put(store, at=NOW + timedelta(hours=1))
    assert take(store, NOW + timedelta(hours=1)).attempts == 1


def test_erasing_a_patient_takes_films_and_jobs_of_that_tenant_alone(store: Store) -> None:
    for tenant in ("north", "south"):
        keep(store, tenant)
        put(store, tenant=tenant)
    erased = store.erase("north", store.key("patient", "north", "p1"))
    assert (erased.removed["film_cache"], erased.removed["film_jobs"]) == (1, 1)
    assert find(store) == []
    assert find(store, tenant="south") == [b"encoding"]
    assert store.films.depth().waiting == 1
