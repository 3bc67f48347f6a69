"""What only research on this project needs: the runner of the paper's tables, its page, comparison plots.

Not part of the bundle; run from the repository's root, as in ``python -m research.study``. Imports `scripts`; nothing
imports it.
"""

import sys
from pathlib import Path

_BUNDLE = str(Path(__file__).resolve().parents[1] / "mp3d_bundle")
if _BUNDLE not in sys.path:
    sys.path.append(_BUNDLE)
