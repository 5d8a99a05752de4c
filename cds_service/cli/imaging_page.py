"""docs/imaging.md, written from the cards of the imaging networks and the models: no figure in it is typed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.card import Card
from models.imaging_card import CourseFigures, FilmReaderCard, ImagingFigures, PlaceFigures
from models.metrics import Estimated

HEAD = """# Imaging networks

Written by `cds-service evaluate imaging --page docs/imaging.md` from the `model.json` of the imaging networks and of
the models; nothing here is typed by hand. Trained by `cds-service train chest-anatomy`.

Not validated for care. Figures are on patients who took no part in training, with a 95 % interval from drawing patients
anew. Results on generated films prove that the machinery works and say nothing about care; they never share a table
with results on open data.
"""
ANCHORS = """
## Published figures

Other networks on other, far larger data; not to be read as a comparison on the same patients.

| what | who | on | figure |
|---|---|---|---|
| findings | MedImageInsight (arXiv 2410.06542) | tube placement, 8,842 films | mean AUROC 0.938; RAD-DINO 0.911 |
| findings | CXR Foundation, ELIXR (arXiv 2308.01317) | zero-shot, 13 findings | mean AUROC 0.850 |
| where a finding is | MAIRA-2 (arXiv 2406.04449) | GR-Bench | precision and recall 0.688, 0.906; spatial 0.335, 0.342 |
| where a structure is | MedGemma 1.5 (arXiv 2604.05081) | Chest ImaGenome | box IoU 0.380 |
| course, three classes | MedGemma 1.5 | MS-CXR-T | macro accuracy 0.657 |
| course, three classes | BioViL-T (arXiv 2301.04558), a later re-run | MS-CXR-T | macro accuracy 0.590 |
| course | DiPro (arXiv 2510.11112), films and records | MIMIC, 7 diseases | macro-F1 0.466 |
| a comparison that is not there | MAIRA-2 without prior film | MIMIC-CXR reports | 38.6 % of reports |
"""

MAPS = """
## Maps of what a score rests on

The evidence page draws, when somebody asks for it, how much of a finding's score goes where a patch of the film, an
eighth of it wide, is replaced by its own blur (12 x 12 patches). Such a map shows what the score rests on. It does not
show where disease is, nor that it is there: how often evidence lies where the finding is, stands under *Where a finding
is*. Sanity check (Adebayo et al., NeurIPS 2018): random weights destroy the map, and a little grain on the film does
not; a test holds both for the weights of chest-generated.
"""


def page(card: FilmReaderCard, models: Sequence[Card]) -> str:
    """The whole page."""
    lines = [
        HEAD,
        f"{card.name} {card.version}: {card.weights.parameters / 1e6:.2f} million parameters stored as "
        f"{card.weights.precision}. Weights sha-256 `{card.weights.sha256[:16]}`. Courses and places belong to "
        + ", ".join(f"{name} `{m.sha256[:16]}`" for name, m in card.compared.items())
        + ".",
        *sections(card.figures),
        MAPS.rstrip("\n"),
        *findings(models),
        ANCHORS.rstrip("\n"),
        "\n## Known limits\n",
        *(f"- {limit}" for limit in card.known_limits),
        "\n## Data\n",
        "| data | licence | attribution |",
        "|---|---|---|",
        *(f"| {_link(s.title, s.url)} | {s.licence} | {s.attribution} |" for s in card.sources),
        "\nThe human lung outlines are V7 Labs' (v7labs/covid-19-xray-dataset, CC BY 4.0) of Hannover films.",
    ]
    return "\n".join(lines) + "\n"


def _link(title: str, url: str) -> str:
    return f"[{title}]({url})" if url else title


def sections(figures: ImagingFigures) -> list[str]:
    """The figures as Markdown tables."""
    return [
        *_outlines(figures),
        *_ratio(figures),
        *_gate(figures),
        *_places(figures.places),
        *_courses(figures.courses),
        f"\nFilms without a prior of which a course is said (the invented-prior rate): {figures.invented:g}.",
    ]


def _outlines(figures: ImagingFigures) -> list[str]:
    titles = {
        "open": "Against human outlines of the lungs (Hannover, validation patients)",
        "generated": "Against the exact outlines of generated films",
    }
    lines = ["\n## Outlines"]
    for tier, found in figures.outlines.items():
        lines += [f"\n### {titles[tier]}\n", "| structure | films (patients) | Dice | IoU |", "|---|---|---|---|"]
        lines += [
            f"| {name.replace('_', ' ')} | {f.films} ({f.patients}) | {ci(f.dice)} | {ci(f.iou)} |"
            for name, f in found.items()
        ]
    return lines


def _ratio(figures: ImagingFigures) -> list[str]:
    lines = ["\n## Cardiothoracic ratio"]
    drawn, real = figures.ratio["generated"], figures.ratio["nih14"]
    lines += [
        "\n### Generated films, against the ratio the film was drawn with\n",
        "| films | ratio given | mean absolute error | mean error |",
        "|---|---|---|---|",
        f"| {drawn.films} | {ci(drawn.given)} | {ci(drawn.error, 4)} | {ci(drawn.bias, 4)} |",
        "\n### NIH films, of which no outline was ever learned, against the word in the report\n",
        "| films | ratio given | films with cardiomegaly | AUROC of the ratio |",
        "|---|---|---|---|",
        f"| {real.films} | {ci(real.given)} | {real.positives} | {ci(real.enlarged)} |",
    ]
    return lines


KINDS = {
    "lateral": "lateral chest films, drawn",
    "hand": "hands, drawn",
    "pelvis": "pelves, drawn",
    "skull": "skulls, drawn",
    "limb": "long bones, drawn",
    "abdomen": "abdomens, drawn",
    "axial": "CT slices, drawn",
    "scene": "scenes and pages of text, drawn",
    "noise": "noise, stripes, ramps",
    "public": "real pictures never learned from (a dog's thorax, a hand, angiograms, CT, MR, ultrasound, photographs)",
    "turned left": "films turned left",
    "turned right": "films turned right",
    "upside down": "films upside down",
    "inverted": "inverted films",
    "magnified": "magnified parts of films",
    "torn": "torn films",
}


def _gate(figures: ImagingFigures) -> list[str]:
    titles = {"hannover": "Hannover", "nih14": "NIH", "kermany": "Kermany (children)"}
    false = figures.false_refusals
    lines = [
        "\n## What is a frontal chest film",
        "\n### Films refused that should not be\n",
        "Each half of the patients under the threshold that the other half sets. "
        f"Of generated films: {ci(false['generated'])}.\n",
        "| films of | refused |",
        "|---|---|",
        *(f"| {title} | {ci(false[name])} |" for name, title in titles.items()),
    ]
    for title, generated in (("Drawn pictures", True), ("Changed films and real pictures", False)):
        lines += [
            f"\n### {title} that must be refused\n",
            "AUROC against the frontal validation films.\n",
            "| kind | pictures | AUROC | refused |",
            "|---|---|---|---|",
        ]
        lines += [
            f"| {KINDS[name]} | {k.pictures} | {ci(k.auroc)} | {ci(k.refused)} |"
            for name, k in figures.gate.items()
            if (name in DRAWN) == generated
        ]
    return lines


DRAWN = ("lateral", "hand", "pelvis", "skull", "limb", "abdomen", "axial", "scene", "noise")


def _places(places: Mapping[str, Mapping[str, PlaceFigures]]) -> list[str]:
    lines = [
        "\n## Where a finding is",
        "\n*Pointing*: the hottest cell of the evidence map touches the finding; *chance*: a cell drawn at random does "
        "so. *Right zone*: of all films, a zone is named and holds a fifth of the finding or more.",
    ]
    for where, found in places.items():
        title = "Generated films" if where == "generated" else where
        lines += [f"\n### {title}\n", "| finding | films | pointing | chance | right zone | zone named |"]
        lines.append("|---|---|---|---|---|---|")
        lines += [
            f"| {name} | {f.films} | {ci(f.pointing)} | {f.chance:.3f} | {ci(f.zone)} | "
            f"{'' if f.named is None else f'{f.named:.3f}'} |"
            for name, f in found.items()
        ]
    return lines


def _courses(courses: Mapping[str, Mapping[str, CourseFigures]]) -> list[str]:
    titles = {
        "pairs-generated": "Generated pairs, five courses (new, worse, stable, improved, resolved)",
        "pairs-nih14": "NIH follow-up films, three statuses of the label (appeared, same, gone)",
    }
    lines = [
        "\n## Course against the prior film",
        "\n*Always one*: macro-F1 of always answering the commonest class. *Swapped*: share of pairs whose answer "
        "turns exactly when the two films are exchanged.",
    ]
    for pairs, found in courses.items():
        lines += [
            f"\n### {titles[pairs]}\n",
            "| finding | pairs (patients) | by class | macro-F1 | always one | answered | F1 answered | swapped |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [_course(name, f) for name, f in found.items()]
    return lines


def _course(name: str, f: CourseFigures) -> str:
    classes = ", ".join(str(n) for n in f.classes.values())
    sure = "" if f.macro_f1_answered is None else f"{f.macro_f1_answered:.3f}"
    return (
        f"| {name} | {f.pairs} ({f.patients}) | {classes} | {ci(f.macro_f1)} | {f.constant:.3f} | {f.answered:.3f} | "
        f"{sure} | {f.swapped:g} |"
    )


def findings(models: Sequence[Card]) -> list[str]:
    """AUROC of every finding, a table for each model."""
    lines = ["\n## Findings", "\nFrom the models' own cards; more of each in [model.md](model.md)."]
    for card in models:
        lines += [f"\n### {card.name} ({card.tier} data)\n", "| finding | films (positive) | AUROC | standing |"]
        lines.append("|---|---|---|---|")
        lines += [
            f"| {name.removeprefix('finding.')} | {t.figures.cases} ({t.figures.positives}) | {ci(t.figures.auroc)} | "
            f"{t.standing} |"
            for name, t in card.targets.items()
            if name.startswith("finding.") and t.figures is not None
        ]
    return lines


def ci(e: Estimated | None, digits: int = 3) -> str:
    return "" if e is None else f"{e.value:.{digits}f} ({e.low:.{digits}f} to {e.high:.{digits}f})"
