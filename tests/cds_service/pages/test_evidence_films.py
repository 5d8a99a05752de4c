"""What is drawn over a film and said of it: outlines as they were seen, and nothing that was not borne out."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import numpy as np
import pytest
from evidence_house import advised, snapshot_of, words_of
from read_films import SIZE, box, final_report, read_case, reading
from vignettes import Answers, Chart, encounter, film, observation, patient

from cds_service.cards import Card, Source
from cds_service.consult import Case
from cds_service.films.kept import pack, unpack
from cds_service.pages.collect import collect
from cds_service.pages.evidence import render
from cds_service.pages.films import chosen, encode, picture_of
from cds_service.pages.overlays import outline, shades
from cds_service.pages.snapshot import Snapshot, decode
from cds_service.pages.snapshot import encode as sealed
from models.contract import EncodedFilm


def loops(path: str) -> list[list[tuple[int, int]]]:
    """The closed ways of SVG path data, read as SVG 2 chapter 9.3 defines M, l and z."""
    found: list[list[tuple[int, int]]] = []
    for command, x, y in re.findall(r"([Ml])(-?\d+) (-?\d+)", path):
        if command == "M":
            found.append([(int(x), int(y))])
        else:
            at_x, at_y = found[-1][-1]
            found[-1].append((at_x + int(x), at_y + int(y)))
    assert path.count("z") == len(found)
    return found


def area(path: str) -> float:
    """By the shoelace formula, in half pixels; what goes round the other way is a hole."""
    return sum(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise([*way, way[0]])) / 2 for way in loops(path))


def test_the_edge_of_one_pixel_goes_through_the_middles_of_its_four_sides() -> None:
    mask = np.zeros((3, 3), np.bool_)
    mask[1, 1] = True
    # The pixel spans 2 to 4 half pixels both ways.
    assert set(loops(outline(mask))[0]) == {(3, 2), (4, 3), (3, 4), (2, 3)}


def test_a_mask_up_to_the_edge_of_the_film_is_closed_there() -> None:
    assert loops(outline(np.ones((2, 2), np.bool_))) == [
        [(1, 0), (3, 0), (4, 1), (4, 3), (3, 4), (1, 4), (0, 3), (0, 1)]
    ]


def test_an_outline_has_the_area_of_its_mask_without_its_holes() -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    lung = ((columns - 60) / 30) ** 2 + ((rows - 96) / 60) ** 2 < 1
    lung[90:100, 50:60] = False
    assert len(loops(outline(lung))) == 2
    # Four half-pixel squares to a pixel; cutting the corners of the steps changes less than a hundredth.
    assert area(outline(lung)) == pytest.approx(4 * lung.sum(), rel=0.01)


def test_pixels_that_touch_at_a_corner_alone_are_each_drawn() -> None:
    mask = np.eye(4, dtype=np.bool_)
    # A pixel has 4 half-pixel squares, and 2 when it is cut through the middles of its sides.
    assert 4 * 2 <= area(outline(mask)) <= 4 * 4


def test_shades_lie_in_each_other_around_the_strongest_cell() -> None:
    heat = np.zeros((12, 12), np.float32)
    heat[8, 3] = 1.0
    widest, middle, strongest = shades(heat, SIZE)
    assert area(widest) > area(middle) > area(strongest) > 0
    ((*way,),) = loops(strongest)
    # Cell (8, 3) of 12 on 192 pixels is centred at column 56 and row 136: 112 and 272 half pixels.
    assert np.mean([x for x, _ in way]) == pytest.approx(112, abs=2)
    assert np.mean([y for _, y in way]) == pytest.approx(272, abs=2)


def page(case: Case, card: Card | None = None) -> Snapshot:
    return collect(case, card or advised(case), None, [(i.sop_uid, encode(i.pixels)) for i in case.record.images])


def names(snapshot: Snapshot) -> list[str]:
    return [shape.name for film in snapshot.films for shape in film.shapes]


def test_a_film_lies_on_the_models_square_between_its_black_margins() -> None:
    newest, before = page(read_case()).films
    assert newest.frame is not None
    # 600 x 400 on a square of 192 is 192 x 128 with 32 of black on either side; in half pixels twice that.
    assert (newest.frame.left, newest.frame.top, newest.frame.width, newest.frame.height) == (64, 0, 256, 384)
    assert (before.frame, before.shapes) == (None, ())


def test_evidence_is_shaded_only_for_findings_that_may_be_there() -> None:
    assert names(page(read_case())) == ["right_lung", "left_lung", "heart", "zones", "heat.effusion", "map.effusion"]
    seen = reading()
    edema = dataclasses.replace(seen.places["effusion"], finding="edema")
    assert "heat.edema" not in names(page(read_case(dataclasses.replace(seen, places={**seen.places, "edema": edema}))))


def test_a_finding_whose_evidence_was_not_shown_to_lie_where_it_is_gets_no_shade() -> None:
    snapshot = page(read_case(reading(share=0.0, zone=None)))
    assert "heat.effusion" not in names(snapshot)
    assert snapshot.film_report is not None
    assert (snapshot.film_report.statements[0].heat, snapshot.film_report.statements[0].where) == ("", "")


def test_evidence_in_no_one_zone_is_said_to_be_in_none() -> None:
    newest = page(read_case(reading(share=0.2, zone=None))).films[0]
    (shade,) = (shape for shape in newest.shapes if shape.kind == "heat")
    assert shade.note == "The evidence for pleural effusion lies in no one zone."


def test_beside_a_final_report_of_radiology_no_finding_is_stated_or_shaded() -> None:
    card = Card(summary="s", indicator="info", source=Source("x"), detail="Model chest-open@1.")
    snapshot = page(read_case(None, final_report()), card)
    assert snapshot.film_report is not None
    assert snapshot.film_report.statements == ()
    assert snapshot.film_report.impression == "The final radiology report of 2026-03-10 stands."
    assert names(snapshot) == ["right_lung", "left_lung", "heart", "zones"]


def test_a_statement_names_both_films_it_was_made_from() -> None:
    report = page(read_case()).film_report
    assert report is not None
    effusion, edema = report.statements
    assert (effusion.certainty, effusion.side, effusion.where, effusion.change) == (
        "probable", "right", "right lower zone", "new",
    )  # fmt: skip
    assert (effusion.probability, effusion.interval, effusion.prior) == (0.88, (0.81, 0.93), 0.06)
    assert [r.reference for r in effusion.refs] == ["ImagingStudy/study1", "ImagingStudy/study2"]
    assert (edema.certainty, edema.there, edema.where) == ("less likely", False, "")
    assert (report.ctr, report.compared) == (0.56, True)


def test_a_card_that_does_not_speak_of_the_model_shows_none_of_its_drawings() -> None:
    case = read_case()
    assert case.assessment is not None
    kept_back = dataclasses.replace(case, assessment=dataclasses.replace(case.assessment, model="another@1"))
    snapshot = page(kept_back, advised(case))
    assert (snapshot.film_report, names(snapshot)) == (None, [])


def test_a_service_that_asks_for_no_findings_has_no_report_of_the_film() -> None:
    study, file = film(1, "2026-03-10T13:38:00Z")
    vitals = [observation("v1", "9279-1", 26, "/min", "2026-03-10T13:30:00Z"),
              observation("v2", "59408-5", 90, "%", "2026-03-10T13:30:00Z"),
              observation("v3", "8480-6", 88, "mm[Hg]", "2026-03-10T13:30:00Z"),
              observation("v4", "8867-4", 128, "/min", "2026-03-10T13:30:00Z"),
              observation("v5", "8310-5", 39.4, "Cel", "2026-03-10T13:30:00Z")]  # fmt: skip
    model = Answers({"deterioration_24h": (0.71, 0.55, 0.82)}, modalities=("imaging", "labs"), reading=reading())
    chart = Chart((patient(), encounter(), study, *vitals), films=(file,), hook="patient-view", model=model)
    assert snapshot_of(chart, "deterioration").film_report is None


def test_drawings_and_report_survive_being_sealed_and_opened() -> None:
    snapshot = page(read_case())
    assert decode(sealed(snapshot)) == snapshot


def test_a_film_encoded_when_it_arrived_is_shown_by_the_picture_kept_with_it() -> None:
    case = read_case()
    image = case.record.images[0]
    kept = unpack(pack(image, EncodedFilm("e" * 64, np.zeros((2, 4), np.float32), None)))
    assert kept is not None
    assert kept.pixels.size == 0
    whole = dataclasses.replace(case.record, images=(kept, *case.record.images[1:]))
    assert [i.sop_uid for i in chosen(whole, frozenset())] == [i.sop_uid for i in case.record.images]
    picture = picture_of(kept)
    assert picture == encode(image.pixels)
    assert (picture.of_height, picture.of_width) == (600, 400)


def test_a_film_kept_by_a_release_that_kept_no_picture_is_not_shown() -> None:
    case = read_case()
    old = dataclasses.replace(case.record.images[0], pixels=np.zeros((0, 0), np.float32), picture=b"")
    old = dataclasses.replace(old, encoded=EncodedFilm("e" * 64, np.zeros((2, 4), np.float32), None))
    assert chosen(dataclasses.replace(case.record, images=(old,)), frozenset()) == ()


def both(likely_before: float, **change: object) -> Snapshot:
    """The page of a film whose film before was read as well, and of the prior probability given."""
    seen = reading()
    case = read_case(dataclasses.replace(seen, before=dataclasses.replace(reading(), changes={})))
    assert case.assessment is not None
    prior = {
        name: dataclasses.replace(e, probability=likely_before if name == "finding.effusion" else e.probability)
        for name, e in case.assessment.prior.items()
    }
    newest, old = case.record.images
    images = (newest, dataclasses.replace(old, **change))
    return page(
        dataclasses.replace(
            case,
            assessment=dataclasses.replace(case.assessment, prior=prior),
            record=dataclasses.replace(case.record, images=images),
        )
    )


def test_the_film_before_has_its_own_outlines_and_shades_only_for_what_may_have_been_there_then() -> None:
    outlines = ["right_lung", "left_lung", "heart", "zones"]
    newest, before = both(0.06).films
    assert before.frame == newest.frame
    assert [shape.name for shape in before.shapes] == outlines
    now, then = both(0.7).films
    assert [shape.name for shape in then.shapes] == [shape.name for shape in now.shapes]
    assert [shape.name for shape in then.shapes] == [*outlines, "heat.effusion", "map.effusion"]


def test_one_switch_lays_a_finding_over_both_films_and_says_where_it_was_on_each() -> None:
    found = {switch.name: switch for switch in both(0.7).switches}
    assert list(found) == ["right_lung", "left_lung", "heart", "zones", "heat.effusion", "map.effusion"]
    share = "62 % of the evidence for pleural effusion lies in the patient's right lower zone."
    assert found["heat.effusion"].note == f"{share} On the film before: {share}"


def test_nothing_is_outlined_on_a_film_before_that_the_archive_rendered() -> None:
    _, before = both(0.7, rendered=True).films
    assert (before.rendered, before.frame, [s.name for s in before.shapes]) == (True, None, ["map.effusion"])


def test_the_page_says_which_film_was_rendered_and_that_a_lateral_was_not_read_and_no_severity_graded() -> None:
    plain, told = page(read_case()), both(0.06, rendered=True, laterals=1)
    before = words_of(render(told, "link")).partition("Film before")[2].partition("for orientation")[0]
    assert "Rendered by the archive, not as it was taken: nothing is measured on it." in before
    assert "A lateral view of the same study: there, and read by no network here." in before
    newest = words_of(render(plain, "link"))
    assert "Rendered by the archive" not in newest
    assert "lateral view" not in newest
    assert "Severity: not graded for any finding." in newest
    assert "Tubes and lines, their tips, bones and soft tissue: not assessed." in newest


def test_a_score_map_is_said_to_show_what_the_score_rests_on_and_not_where_disease_is() -> None:
    (shown,) = (shape for shape in page(read_case()).films[0].shapes if shape.kind == "map")
    assert shown.note.endswith("what the score rests on, not where disease is, nor that it is there.")


def test_heart_outline_is_missing_where_none_was_believed() -> None:
    seen = reading()
    lungs = {"right_lung": box(30, 40, 70, 150)}
    without_heart = dataclasses.replace(seen, anatomy=dataclasses.replace(seen.anatomy, masks=lungs))
    assert "heart" not in names(page(read_case(without_heart)))
