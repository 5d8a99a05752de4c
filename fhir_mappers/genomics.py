"""Genomic Observations -> GeneResult: HL7 Genomics Reporting (variant, genotype, haplotype, implications) and the
laboratory's own phenotype and HLA codes.

Germline, somatic and unknown are never confused: what the report does not say stays unknown. Nothing is inferred:
a genotype is not turned into a phenotype here, and an uncertain answer never into a normal one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Literal

from fhir_mappers import fhir, gene_words, r4
from fhir_mappers.codes import LOINC_SYSTEMS, gene_symbol
from fhir_mappers.record import Gap, GeneResult, Source

Origin = Literal["germline", "somatic", "unknown"]
Kind = Literal["variant", "genotype", "haplotype", "phenotype", "presence", "activity", "none-found"]

VARIANT, GENOTYPE, HAPLOTYPE = "69548-6", "84413-4", "84414-2"
GENE, P_HGVS, C_HGVS, SIGNIFICANCE, SOURCE_CLASS = "48018-6", "48005-3", "48004-6", "53037-8", "48002-0"
CHANGE_TYPE, FUSED_GENES, GENE_FUSION = "48019-4", "95123-6", "SO:0001565"
"""LOINC: DNA change type, the fused pair of genes; Sequence Ontology: gene_fusion."""
PHENOTYPES = {"79714-2": "CYP2C19", "79715-9": "CYP2D6", "79716-7": "CYP2C9", "79719-1": "DPYD"}
HLA = {"50956-2": "HLA-B*57:01", "57979-7": "HLA-B*15:02"}
THERAPEUTIC, DIAGNOSTIC = "therapeutic-implication", "diagnostic-implication"
IMPLICATIONS = frozenset({THERAPEUTIC, DIAGNOSTIC})
METABOLISM = "53040-2"
"""An implication of the guide's first version: the Observation's own code is the effect, its answer the phenotype."""
EFFECTS = ("therapeutic-implication", "53040-2", "51961-1", "51964-5", "predicted-therapeutic-implication")
"""Components that carry an implication's answer, over the versions of the guide: its own code, LOINC's genetic
effect on drug metabolism, drug efficacy and so on."""

METABOLIZERS = {
    "LA9657-3": "Poor Metabolizer",
    "LA10317-8": "Intermediate Metabolizer",
    "LA25391-6": "Normal Metabolizer",
    "LA10316-0": "Normal Metabolizer",  # the retired "extensive"
    "LA25390-8": "Rapid Metabolizer",
    "LA10315-2": "Ultrarapid Metabolizer",
}
_PRESENT = frozenset({"LA9633-4", "LA6576-8", "LA11882-0", "10828004", "260373001", "POS"})
_ABSENT = frozenset({"LA9634-2", "LA6577-6", "LA11883-8", "260385009", "260415000", "NEG"})
_PRESENCE_WORDS = {
    **dict.fromkeys(("positive", "present", "detected"), "positive"),
    **dict.fromkeys(("negative", "absent", "not detected"), "negative"),
}
_ORIGINS: dict[str, Origin] = {"LA6683-2": "germline", "LA6684-0": "somatic"}
ORIGIN_CODES = {origin: code for code, origin in _ORIGINS.items()}
_ORIGIN_WORDS: dict[str, Origin] = {"germline": "germline", "somatic": "somatic"}
SIGNIFICANCES = {
    "LA6668-3": "pathogenic",
    "LA26332-9": "likely pathogenic",
    "LA26333-7": "uncertain significance",
    "LA26334-5": "likely benign",
    "LA6675-8": "benign",
}
# A tuple, since a broken status may be a list, which no set can be asked for.
USED = ("final", "amended", "corrected")

_AMINO = dict(zip("ARNDCQEGHILKMFPSTWYV*X", (
    "Ala", "Arg", "Asn", "Asp", "Cys", "Gln", "Glu", "Gly", "His", "Ile", "Leu",
    "Lys", "Met", "Phe", "Pro", "Ser", "Thr", "Trp", "Tyr", "Val", "Ter", "Ter",
), strict=True))  # fmt: skip
_RESIDUE = rf"(?:{'|'.join(sorted(set(_AMINO.values())))}|[A-Z*])"
_PROTEIN = re.compile(
    rf"(?:.*:)?(?:p\.)?\(?({_RESIDUE}\d+(?:_{_RESIDUE}\d+)?"
    rf"(?:{_RESIDUE}|=|del|dup|(?:del)?ins{_RESIDUE}+|{_RESIDUE}?fs(?:(?:Ter|\*)\d+)?))\)?"
)


def is_genomic(codes: fhir.Codes) -> bool:
    """Whether an Observation with this code is one of the genomic kinds read here."""
    return any(_kind(system, code) for system, code in codes)


def _kind(system: str, code: str) -> str:
    if code in IMPLICATIONS and "genomics-reporting" in system:
        return code
    if system in LOINC_SYSTEMS and (
        code in (VARIANT, GENOTYPE, HAPLOTYPE, METABOLISM) or code in PHENOTYPES or code in HLA
    ):
        return code
    return ""


def read_genes(resource: fhir.Resource, as_of: datetime) -> Iterator[GeneResult | Gap]:
    """Read one genomic Observation. Raises fhir.Malformed.

    Only final results count, and results never grow old: one without a date is read with `at` None. What a report
    marks absent is kept for single alleles (HLA) and is no result for variants, where it speaks only of the region
    that was looked at.
    """
    reference = fhir.reference_of(resource)
    kind = next(k for k in (_kind(s, c) for s, c in fhir.codes_of(resource.get("code"))) if k)
    observation = fhir.read(resource, r4.Observation)
    period = observation.effective_period or r4.Period()
    at = fhir.read_start(
        observation.effective_date_time or observation.effective_instant or period.end or observation.issued, as_of
    )
    issued = fhir.read_time(observation.issued, as_of)
    if observation.status not in USED:
        yield Gap("bad-status", "genomics", reference)
    elif fhir.in_future(at, as_of) or fhir.in_future(issued and issued.at, as_of):
        yield Gap("future", "genomics", reference)
    else:
        found = [r for r in _results(kind, observation, at, fhir.source_of(resource)) if r.gene and r.value]
        yield from found
        if not found and not (kind == DIAGNOSTIC and significances([resource])):
            yield Gap("no-value", _subject(kind, observation), reference)


def _results(kind: str, observation: r4.Observation, at: datetime | None, source: Source) -> Iterator[GeneResult]:
    origin = _origin(observation)
    value = observation.value_codeable_concept or r4.Concept()

    def result(gene: str, kind: Kind, value: str) -> GeneResult:
        return GeneResult(gene, kind, value, origin, at, source, frozenset({f"{gene}:{value}"}))

    if kind in PHENOTYPES:
        gene = PHENOTYPES[kind]
        yield result(gene, "phenotype", _phenotype(gene, value) or _phenotype(gene, _in_words(observation)))
        yield result(gene, "activity", _activity(gene, observation))
    elif kind in HLA:
        answer = "positive" if value.says(*_PRESENT) else "negative" if value.says(*_ABSENT) else ""
        words = "" if value.codes else (value.words or observation.value_string or "").strip().lower()
        yield result(HLA[kind], "presence", answer or _PRESENCE_WORDS.get(words, ""))
    elif kind in (GENOTYPE, HAPLOTYPE):
        written = [*_written(value), *_written(_in_words(observation))]
        for gene in genes_of(observation):
            alleles = next((d for text in written if (d := gene_words.diplotype(gene, text))), "")
            yield result(gene, "genotype" if kind == GENOTYPE else "haplotype", alleles)
            for allele, answer in filter(all, (gene_words.hla_answer(gene, text) for text in written[:1])):
                yield result(allele, "presence", answer)
            yield result(gene, "phenotype", _effect(gene, observation))
            yield result(gene, "activity", _activity(gene, observation))
    elif kind == VARIANT:
        for gene in genes_of(observation):
            if not value.says(*_ABSENT):
                yield _variant(observation, gene, origin, at, source)
            elif not any(True for code in (P_HGVS, C_HGVS) for _ in _answers(observation, code)):
                # No variant named: the gene was looked at and nothing was found. No concept, so no model reads it.
                yield GeneResult(gene, "none-found", "no variant found", origin, at, source)
    elif kind in (THERAPEUTIC, METABOLISM):
        for gene in genes_of(observation):
            yield result(gene, "phenotype", _effect(gene, observation))
            yield result(gene, "activity", _activity(gene, observation))


def _subject(kind: str, observation: r4.Observation) -> str:
    """What an unreadable result was about: a gene that was tested must not be taken for one that was not."""
    gene = PHENOTYPES.get(kind) or HLA.get(kind) or ""
    if kind in (GENOTYPE, HAPLOTYPE, THERAPEUTIC, METABOLISM):
        gene = next(iter(genes_of(observation)), "")
    return f"genomics {gene}".strip()


def significances(resources: Iterable[fhir.Resource]) -> dict[str, str]:
    """Variant id -> clinical significance, from the diagnostic implications derived from it.

    Since version 2 the guide keeps the significance (53037-8) in an Observation of its own. Two implications that
    disagree say nothing.
    """
    found: dict[str, set[str]] = {}
    for resource in resources:
        if "derivedFrom" not in resource:
            continue
        codes = fhir.codes_of(resource.get("code"))
        if fhir.status_of(resource) not in USED or not any(_kind(s, c) == DIAGNOSTIC for s, c in codes):
            continue
        parts = [p for p in fhir.each(resource.get("component")) if isinstance(p, Mapping)]
        parts = [p for p in parts if any(c == SIGNIFICANCE for _, c in fhir.codes_of(p.get("code")))]
        said = {
            SIGNIFICANCES[c]
            for p in parts
            for _, c in fhir.codes_of(p.get("valueCodeableConcept"))
            if c in SIGNIFICANCES
        }
        for origin in fhir.each(resource.get("derivedFrom")):
            reference = origin.get("reference") if isinstance(origin, Mapping) else None
            if isinstance(reference, str) and (id_ := fhir.last_segment(reference)):
                found.setdefault(id_, set()).update(said)
    return {id_: said.pop() for id_, said in found.items() if len(said) == 1}


def with_significance(gene: GeneResult, known: Mapping[str, str]) -> GeneResult:
    """A variant with the significance that an implication derived from it states, where it has none of its own."""
    said = known.get(fhir.last_segment(gene.source.reference), "")
    return replace(gene, significance=said) if said and gene.kind == "variant" and not gene.significance else gene


def _effect(gene: str, observation: r4.Observation) -> str:
    """The phenotype an implication states, by its code or as CPIC's term."""
    answers = [c for code in EFFECTS for c in _answers(observation, code)]
    if observation.code.says(METABOLISM) and observation.value_codeable_concept is not None:
        answers.append(observation.value_codeable_concept)
    return next((m for c in (*answers, *observation.interpretation) if (m := _phenotype(gene, c))), "")


def _phenotype(gene: str, concept: r4.Concept) -> str:
    if any(code in METABOLIZERS for _, code in concept.codes):
        return _metabolizer(concept)
    return next((p for text in _written(concept) if (p := gene_words.phenotype(gene, text))), "")


def _activity(gene: str, observation: r4.Observation) -> str:
    """The activity score: a component named so (LOINC has no code for it), or the answer itself in these words."""
    for part in observation.component:
        if part.code.words.strip().lower() == "activity score":
            number = part.value_quantity.value if part.value_quantity else part.value_integer
            text = f"activity score {number if number is not None else part.value_string or ''}"
            if score := gene_words.activity_score(gene, text):
                return score
    said = [*_written(observation.value_codeable_concept or r4.Concept()), observation.value_string or ""]
    said += [text for code in EFFECTS for c in _answers(observation, code) for text in _written(c)]
    return next((s for text in said if (s := gene_words.activity_score(gene, text))), "")


def _in_words(observation: r4.Observation) -> r4.Concept:
    """The answer of a laboratory that sends its result as a string."""
    return r4.Concept(text=observation.value_string)


def _variant(observation: r4.Observation, gene: str, origin: Origin, at: datetime | None, source: Source) -> GeneResult:
    names = (normal_protein(w) for c in _answers(observation, P_HGVS) for w in _written(c))
    protein = next((name for name in names if name), "")
    coding = next((w for c in _answers(observation, C_HGVS) for w in _written(c)), "") or _fusion(observation)
    classes = (code for c in _answers(observation, SIGNIFICANCE) for _, code in c.codes)
    return GeneResult(
        gene=gene,
        kind="variant",
        value=protein or coding,
        origin=origin,
        at=at,
        source=source,
        concepts=frozenset({f"{gene}:{protein}"} if protein else ()),
        significance=next((SIGNIFICANCES[c] for c in classes if c in SIGNIFICANCES), ""),
        allele_fraction=_fraction(observation),
    )


def _fusion(observation: r4.Observation) -> str:
    """`EML4::ALK`, or `fusion` where the report gives the kind of change (Sequence Ontology) and no HGVS name."""
    fused = any(code == GENE_FUSION for c in _answers(observation, CHANGE_TYPE) for _, code in c.codes)
    genes = [w for c in _answers(observation, FUSED_GENES) for w in _written(c) if re.fullmatch(r"[\w-]+::[\w-]+", w)]
    return next((g for g in genes if not g.startswith("HGNC:")), "fusion") if fused or genes else ""


def _fraction(observation: r4.Observation) -> float | None:
    """Sample variant allele fraction, 0 to 1; percent is converted, anything else than % or 1 is not a fraction."""
    for part in observation.component:
        quantity = part.value_quantity
        if any(code == "81258-6" for _, code in part.code.codes) and quantity and quantity.value is not None:
            unit = quantity.code or quantity.unit or ""
            value = quantity.value / 100 if unit == "%" else quantity.value if unit in ("1", "{ratio}") else None
            if value is not None and 0 <= value <= 1:
                return float(value)
    return None


def _answers(observation: r4.Observation, code: str) -> Iterator[r4.Concept]:
    """The answers of the components with this code; a string answer as a concept with that text."""
    for part in observation.component:
        if any(c == code for _, c in part.code.codes):
            if part.value_codeable_concept is not None:
                yield part.value_codeable_concept
            elif part.value_string:
                yield r4.Concept(text=part.value_string)


def _written(concept: r4.Concept) -> Iterator[str]:
    """The HGVS names of an answer, from its code, display or text: an HGVS name is itself the code."""
    yield from (code for _, code in concept.codes)
    yield from (c.display for c in concept.coding if c.display)
    if concept.text:
        yield concept.text


def names_a_gene(observation: r4.Observation) -> bool:
    """Whether a gene is stated at all, if only one that is not understood."""
    return any(True for _ in _answers(observation, GENE))


def genes_of(observation: r4.Observation) -> list[str]:
    """HGNC symbols of the genes studied: by HGNC id where the table knows it, else by the coded symbol."""
    found: list[str] = []
    for answer in _answers(observation, GENE):
        symbol = gene_symbol(answer.codes) or next((c.display for c in answer.coding if c.display), "")
        symbol = symbol or (answer.text or "")
        if re.fullmatch(r"[A-Z][A-Z0-9-]{1,15}", symbol):
            found.append(symbol)
    return list(dict.fromkeys(found))


def _origin(observation: r4.Observation) -> Origin:
    """By the answer's code, or by its one word where it has no code; two origins are none."""
    found = origins_of(observation)
    return found.pop() if len(found) == 1 else "unknown"


def origins_of(observation: r4.Observation) -> set[Origin]:
    """Every genomic source class an Observation states."""
    answers = list(_answers(observation, SOURCE_CLASS))
    found = {_ORIGINS[code] for answer in answers for _, code in answer.codes if code in _ORIGINS}
    if not any(answer.codes for answer in answers):
        found = {_ORIGIN_WORDS[w] for a in answers if (w := a.words.strip().lower()) in _ORIGIN_WORDS}
    return found


def _metabolizer(concept: r4.Concept) -> str:
    found = {METABOLIZERS[code] for _, code in concept.codes if code in METABOLIZERS}
    return found.pop() if len(found) == 1 else ""


def normal_protein(name: str) -> str:
    """A protein change in three-letter HGVS: `L858R`, `p.L858R` and `NP_005219.2:p.(Leu858Arg)` -> `p.Leu858Arg`.

    Deletions, insertions, duplications and frameshifts keep their words (`p.Glu746_Ala750del`). Empty for what is
    no protein change.
    """
    match = _PROTEIN.fullmatch(name.strip())
    if not match:
        return ""
    residues = re.findall(_RESIDUE, match[1])
    if any(len(r) == 1 and r not in _AMINO for r in residues):
        return ""
    return "p." + re.sub(_RESIDUE, lambda m: _AMINO.get(m[0], m[0]), match[1])
