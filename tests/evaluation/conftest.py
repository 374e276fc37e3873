from __future__ import annotations

import sys
from pathlib import Path

# For fake_generator, which is also a program that a test starts and kills.
sys.path.insert(0, str(Path(__file__).parent))
# For fake_endpoint.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
