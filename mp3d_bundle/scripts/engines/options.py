"""The options of all workflows: what each of them may be."""

from __future__ import annotations

# Top-level keys that hold a path, a list of paths or another text, and are taken as the user typed them.
TEXTS = (
    *("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "checkpoint", "pretrained", "imagenet", "input"),
    *("annotations", "labels", "predictions", "images", "train_annotations", "train_images", "val_annotations"),
    *("val_images", "series", "model_name", "notice"),
)
