"""`python -m benches.compare`, or `python benches/compare`."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run by its path: make the package importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benches.compare.cli import main

if __name__ == "__main__":
    sys.exit(main())
