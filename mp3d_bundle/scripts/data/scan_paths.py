"""Reading scans from other programs. This import path stays stable when readers move.

``find_scans(path)`` gives a `ScanSource` for each scan; ``source.open()`` reads one.
"""

from .scans.find_scans import ScanSource, find_scans
from .scans.scan import Scan
from .scans.volume_files.stored_image import ReadingRules

__all__ = ["ReadingRules", "Scan", "ScanSource", "find_scans"]
