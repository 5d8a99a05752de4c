"""What the networks make of a chest film as a structured report: statements first, then words, FHIR and DICOM."""
