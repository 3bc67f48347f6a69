"""AlignShift, TSM and A3D (Yang et al., MICCAI 2020 and 2021; arXiv 2005.01969, 2109.08684).

Three ways to mix slices in one network: DenseNet-121 without its last block over the slices, reduced to the target
slice after each block. Numbers by the released code (M3DV/AlignShift).
"""

from __future__ import annotations

from .authors_names import DENSE_BODY, Rules

AUTHORS_BACKBONE: Rules = (
    (r"backbone\.conv0\.adaptive_align_weights$", "backbone.unused.matrices.0"),
    (r"backbone\.transition(\d)\.conv\.adaptive_align_weights$", r"backbone.unused.matrices.\1"),
    (
        r"backbone\.(denseblock\d\.denselayer\d+)\.conv(\d)\.adaptive_align_weights$",
        r"backbone.body.\1.mix\2.matrix",
    ),
    *((rf"backbone\.reductionz{i}\.reduction_z_conv\.", rf"backbone.reductions.{i - 1}.") for i in (1, 2, 3)),
    *DENSE_BODY,
)
