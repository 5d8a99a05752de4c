"""Advice by name, from the entry points of installed packages."""

from __future__ import annotations

import pytest

from cds_service.advice import UnknownAdvice, load_advice
from cds_service.advice.imaging_safety import advise


def test_advice_is_found_by_the_name_its_package_declares() -> None:
    assert load_advice("imaging_safety") is advise


def test_an_unknown_name_is_told_with_the_names_there_are() -> None:
    with pytest.raises(UnknownAdvice, match=r"no advice 'imaging_saftey'.*imaging_safety"):
        load_advice("imaging_saftey")
