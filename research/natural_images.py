"""Write a stand-in of natural images for pre-training: ``python -m research.natural_images --output DIR``."""

from __future__ import annotations

from research.natural_images_set import generate_natural
from scripts.cli import run_typed


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
        output: Folder to create.
        num_train: Images for training.
        num_validation: Images for validation.
        image_size: Rows and columns, pixels.
        seed: The same seed and numbers give the same pixels.
        overwrite: Replace an earlier synthetic data set.

    Raises:
        ValueError: If a number is impossible.
        FileExistsError: If the folder has content and must not be replaced.
        OSError: If writing fails; nothing is left behind.
    """
    folder = generate_natural(
        output,
        num_train=num_train,
        num_validation=num_validation,
        image_size=image_size,
        seed=seed,
        overwrite=overwrite,
    )
    print(f"Wrote {folder}.")


if __name__ == "__main__":
    run_typed(main)
