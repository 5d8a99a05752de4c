"""Fail when a module on the path of a request is covered below the floor.

Run after the tests: `python tests/coverage_floor.py .venv/coverage.json`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FLOOR = 90.0
REQUEST_PATH = (
    "cds_service/advice/",
    "cds_service/app.py",
    "cds_service/cards.py",
    "cds_service/consult.py",
    "cds_service/deadline.py",
    "cds_service/dicomweb.py",
    "cds_service/errors.py",
    "cds_service/evidence.py",
    "cds_service/fhir_client.py",
    "cds_service/hooks.py",
    "cds_service/manifest.py",
    "cds_service/markdown.py",
    "cds_service/prefetch.py",
    "cds_service/trust/",
    "fhir_mappers/codes.py",
    "fhir_mappers/events.py",
    "fhir_mappers/fhir.py",
    "fhir_mappers/genomics.py",
    "fhir_mappers/imaging.py",
    "fhir_mappers/labs.py",
    "fhir_mappers/orders.py",
    "fhir_mappers/people.py",
    "fhir_mappers/read.py",
    "fhir_mappers/record.py",
    "fhir_mappers/tensors.py",
    "models/calibration.py",
    "models/contract.py",
    "models/encoders/",
    "models/fusion.py",
    "models/serving.py",
)


def main(report: Path) -> int:
    files = json.loads(report.read_text(encoding="utf-8"))["files"]
    below = [
        f"{name}: {data['summary']['percent_covered']:.1f} %"
        for name, data in sorted(files.items())
        if name.startswith(REQUEST_PATH) and data["summary"]["num_statements"]
        if data["summary"]["percent_covered"] < FLOOR
    ]
    if below:
        print(f"On the path of a request, every module is covered to at least {FLOOR:.0f} %. Below it:")
        print("\n".join(f"  {line}" for line in below))
        return 1
    print(f"every module on the path of a request is covered to at least {FLOOR:.0f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
