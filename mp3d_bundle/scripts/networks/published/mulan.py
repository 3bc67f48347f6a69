"""MULAN, the multitask universal lesion analysis network (Yan et al., MICCAI 2019, arXiv 1908.04373).

Detects, tags and outlines lesions on nine slices read as three images. 94,326,808 parameters. Numbers by the released
code (rsummers11/CADLab, MULAN_universal_lesion_analysis).
"""

from __future__ import annotations

from .authors_names import DENSE_BODY, Rules

MULAN_BACKBONE: Rules = (
    (r"backbone\.conv_ilf2\.", "backbone.body.after.1.conv."),
    (r"feature_fuse\.conv\.", "backbone.fusion."),
    *DENSE_BODY,
)
