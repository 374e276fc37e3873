from __future__ import annotations

import sys
from pathlib import Path

# For https_host and page_host.
sys.path.insert(0, str(Path(__file__).parent))
# For served and tiny_models.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
