"""Our words on the pages for what the record, the evidence and a call name by code."""

from __future__ import annotations

import math

EVIDENCE = {
    "patient": "patient",
    "encounter": "encounter",
    "labs": "laboratory results",
    "kidney": "kidney function results",
    "vitals": "vital signs",
    "conditions": "problem list",
    "meds": "medication list",
    "allergies": "allergies",
    "orders": "existing orders",
    "studies": "imaging studies",
    "films": "chest films",
    "reports": "radiology reports",
    "genes": "genomic results",
    "goals": "goals of care",
    "preg": "pregnancy status",
    "procedures": "procedures",
    "model": "the model's estimate",
}
GAPS = {
    "unknown-code": "has no code that is read here",
    "unknown-unit": "has a unit that is not known here; a unit is never guessed",
    "no-unit": "has no unit; a unit is never guessed",
    "out-of-limits": "has a value outside what is possible",
    "no-value": "has no value",
    "no-time": "has no time",
    "future": "is dated after this call",
    "bad-status": "is cancelled, entered in error, or not yet a result",
    "malformed": "could not be read",
    "other-patient": "belongs to another patient, and was left out",
    "conflicting-unit": "names two different units",
    "not-an-image": "is no image",
    "wrong-image": "is not the image it was named as",
    "unsupported-image": "is an image in a form that is not read here",
    "no-patient": "names no patient",
    "specimen-quality": "was measured in a spoilt sample",
    "superseded": "was replaced by a better or newer result",
    "not-read": "is of a kind that is not read here",
}
HOOKS = {
    "patient-view": "opening the chart",
    "order-select": "choosing an order",
    "order-sign": "signing an order",
    "order-dispatch": "dispatching an order",
    "appointment-book": "booking an appointment",
    "encounter-start": "starting an encounter",
    "encounter-discharge": "discharging the patient",
    "medication-refill": "refilling a medication",
    "problem-list-item-create": "adding to the problem list",
    "allergyintolerance-create": "adding an allergy",
}
STAGES = {
    "waited": "for a free thread",
    "caller": "its token checked",
    "request": "the call read",
    "evidence": "what was not sent, read from the EHR",
    "films": "fetched and decoded",
    "record": "resources made one record",
    "model": "the estimate",
    "advice": "the rules",
    "kept": "repeats held back, the audit written",
    "whole call": "from the first byte to the answer",
}
REASONS = {
    "timeout": "did not come in the time there was",
    "unreachable": "the server could not be reached",
    "refused": "the server refused access",
    "error": "the server answered with an error, as it does where there is none",
    "bad-answer": "what came could not be read",
    "no-access": "not sent, and the call named no server that may be read",
    "not-allowed": "the server is not registered for this client",
    "truncated": "only part of it came",
    "busy": "our own model had no room",
    "failed": "our own model failed",
    "no-time": "there was no time left to use it",
    "needs an encounter": "no encounter is named in a check",
}
"""Why evidence could not be had: `cds_service.evidence.Reason`, and what only a check says."""
CAUSES = {
    "shown": "shown before",
    "accepted": "accepted before",
    "overridden": "overridden before",
    "answered": "answered before",
    "later": "put off",
    "eight per week": "eight interruptions of a user a week",
    "five per thousand orders": "five interruptions in a thousand orders",
    "two per event": "two cards for an event",
}
"""Why a card was held back or only informs: the words of `cds_service.economy`, where they do not say it."""
FIGURES = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier score", "ece": "Calibration error (ECE)"}
EXPECTED = frozenset({"superseded", "unknown-code", "not-read", "bad-status"})
"""Gaps every chart has many of: shown as a count, not one by one."""


def odds_factor(share: float) -> str:
    """What a share of the log odds multiplies the odds by: 0.69 is `2`; from a hundredfold on either way `over 100`."""
    factor = math.exp(min(max(share, -9.0), 9.0))
    if factor > 100.0:
        return "over 100"
    return "under 0.01" if factor < 0.01 else f"{factor:.2g}"
