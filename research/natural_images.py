"""Write a stand-in of natural images for pre-training: ``python -m scripts.natural_images --output DIR``."""

from __future__ import annotations

import sys

import fire

from research.natural_images_set import generate_natural


def main(
    output: str,
    *,
    num_train: int = 1200,
    num_validation: int = 100,
    image_size: int = 64,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write textured coloured shapes of ten classes in COCO's format, for ``configs/pretrain_coco.json``.

    Args:
        output: Folder to make.
        num_train: Images for training.
        num_validation: Images for validation.
        image_size: Rows and columns, pixels.
        seed: The same seed and numbers give the same pixels.
        overwrite: Replace an earlier synthetic data set.
    """
    try:
        folder = generate_natural(
            str(output),
            num_train=num_train,
            num_validation=num_validation,
            image_size=image_size,
            seed=seed,
            overwrite=overwrite,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"natural_images: {error}")
    print(f"Wrote {folder}.")


if __name__ == "__main__":
    fire.Fire(main)
