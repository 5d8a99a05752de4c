"""Python runs this in every process a test starts: it watches for test patients' data there as well."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if "CANARY_REPORT" in os.environ:
    folder = str(Path(__file__).resolve().parent.parent)
    sys.path.append(folder)
    import canaries

    sys.path.remove(folder)
    canaries.watch()
