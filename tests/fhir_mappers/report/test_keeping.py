"""A report that was kept writes the same bytes as the one it was made from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from film_readings import NEW, OLD, assessment, estimate, reading, record, report

from fhir_mappers.report.dicom import make_segmentation, make_structured_report, source_of, to_bytes
from fhir_mappers.report.keeping import pack, unpack
from fhir_mappers.report.resources import as_transaction
from fhir_mappers.report.statements import FilmReport, report_film
from fhir_mappers.report.text import write_report

AT = datetime(2026, 3, 10, 14, 5, tzinfo=UTC)
LEAST: dict[str, Any] = {
    "00080016": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.1.1"]},
    "00080018": {"vr": "UI", "Value": [NEW.sop_uid]},
    "00080060": {"vr": "CS", "Value": ["DX"]},
    "0020000D": {"vr": "UI", "Value": [NEW.study_uid]},
    "0020000E": {"vr": "UI", "Value": ["1.2.3"]},
    "00280010": {"vr": "US", "Value": [64]},
    "00280011": {"vr": "US", "Value": [48]},
}


def made() -> FilmReport:
    answer = assessment(
        estimate("effusion", 0.88, 0.81, 0.93),
        estimate("atelectasis", None, why="Withheld."),
        prior=(estimate("effusion", 0.06),),
        read=reading({"effusion": "left_upper"}, {"effusion": "worse"}, ctr=0.51, ctr_why="AP film"),
    )
    return report_film(record(NEW, OLD), answer, NEW, OLD)


def test_what_is_kept_is_written_as_it_would_have_been_at_once() -> None:
    kept = unpack(pack(made()))
    assert write_report(kept) == write_report(made())
    assert as_transaction(kept, "Practitioner/u1", AT) == as_transaction(made(), "Practitioner/u1", AT)
    source = source_of(LEAST)
    assert to_bytes(make_structured_report(kept, source)) == to_bytes(make_structured_report(made(), source))
    first, second = make_segmentation(kept, source), make_segmentation(made(), source)
    assert first is not None
    assert second is not None
    assert to_bytes(first) == to_bytes(second)


def test_it_holds_no_pixel_of_the_film_and_is_small() -> None:
    assert unpack(pack(made())).film.pixels.size == 0
    assert len(pack(made())) < 3000


def test_a_report_that_states_nothing_is_not_kept_and_other_bytes_are_no_report() -> None:
    silent = report_film(record(NEW), assessment(estimate("effusion", 0.9)), NEW, None, (report(),))
    with pytest.raises(ValueError, match="states nothing"):
        pack(silent)
    with pytest.raises(msgspec.DecodeError):
        unpack(b"\x93\x01\x02")
