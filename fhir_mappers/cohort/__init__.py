"""Generated patients: FHIR resources, films and their truth, all from one stated generative model and a seed."""
