"""Helper modules of these tests lie beside them."""

from __future__ import annotations

import sys
from pathlib import Path

# import-mode importlib does not put a test's folder on the path.
sys.path.insert(0, str(Path(__file__).parent))
