"""Pack the bundle as `dist/mp3d_bundle_vX.Y.Z.zip` with a `.sha256` next to it: `make bundle`.

The same files give the same bytes on every machine: sorted names, one date, one set of permissions, and no
compression, because the output of a compressor depends on its version (weights would shrink by less than a tenth).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "mp3d_bundle"
LISTING = "large_files.yml"
DEMO, TRAINED = "models/demo.pt", "models/model.pt"
SHIPPED = (DEMO, "models/sarcoma.pt", "models/synthetic.pt")
# Contents of a bundle; other files in its folder (results, caches, weights of runs) are not packed.
FILES = ("LICENSE", LISTING, "models/README.md", *SHIPPED)
FOLDERS = ("configs", "docs", "scripts")
DATE = (1980, 1, 1, 0, 0, 0)  # the earliest date of a zip
# Address of the releases, until set.
RELEASES = "https://github.com/OWNER/REPOSITORY/releases/download"


def source_files(bundle: Path) -> dict[str, Path]:
    """The files of the bundle's folder that are shipped, by their name inside it.

    Raises:
        ValueError: If one of them is a link or is missing.
    """
    paths = [bundle / name for name in FILES]
    for folder in FOLDERS:
        for path in (bundle / folder).rglob("*"):
            hidden = any(part.startswith((".", "__pycache__")) for part in path.relative_to(bundle).parts)
            if not hidden and path.suffix not in (".pyc", ".pyo") and (path.is_symlink() or not path.is_dir()):
                paths.append(path)
    for path in paths:
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"Expected a regular file to ship, got {path}.")
    return {path.relative_to(bundle).as_posix(): path for path in paths}


def checked_version(root: Path) -> str:
    """The bundle's version, on which metadata, its changelog, the project and CHANGELOG.md must agree.

    Raises:
        ValueError: If they do not.
    """
    metadata = json.loads((root / "mp3d_bundle" / "configs" / "metadata.json").read_text(encoding="utf-8"))
    version = metadata["version"]
    project = re.search(r'^version = "(.*)"$', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    if project is None or project[1] != version:
        raise ValueError(
            f"Expected version {version} of configs/metadata.json in pyproject.toml, got {project and project[1]}."
        )
    if version not in metadata["changelog"]:
        raise ValueError(f"Expected version {version} in the changelog of configs/metadata.json.")
    if f"## [{version}]" not in (root / "CHANGELOG.md").read_text(encoding="utf-8"):
        raise ValueError(f"Expected a heading '## [{version}]' in CHANGELOG.md.")
    return version


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def listing(weights: dict[str, Path], releases: str, version: str) -> str:
    """Content of `large_files.yml`: the address of each weights file, and its SHA-256."""
    lines = [
        "# Read by `python -m monai.bundle download_large_files`. Existing files with this hash are not downloaded.",
        "# OWNER/REPOSITORY: `make bundle BUNDLE_ARGS='--releases ADDRESS'` sets the address of the releases.",
        "large_files:",
    ]
    for name, path in sorted(weights.items()):
        lines += [
            f"  - path: {name}",
            f"    url: {releases.rstrip('/')}/v{version}/{Path(name).name}",
            f"    hash_val: {digest(path)}",
            "    hash_type: sha256",
        ]
    return "\n".join(lines) + "\n"


def write_zip(target: Path, top: str, contents: dict[str, bytes | Path]) -> None:
    """Write the zip under a temporary name, then rename it."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(contents):
                entry = zipfile.ZipInfo(f"{top}/{name}", DATE)
                entry.create_system = 3  # Unix, on any system
                entry.external_attr = 0o100644 << 16
                content = contents[name]
                archive.writestr(entry, content if isinstance(content, bytes) else content.read_bytes())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def make_bundle(output: Path, *, root: Path = ROOT, weights: Path | None = None, releases: str = RELEASES) -> Path:
    """Pack the bundle.

    Args:
        output: Folder of the zip.
        root: The repository.
        weights: Trained weights, shipped as `models/model.pt`; without them the demo's are used, so that every command
            finds working weights. The notice inside them is shown with every result.
        releases: Address of the release downloads, for `large_files.yml`.

    Returns:
        The zip.

    Raises:
        ValueError: If versions disagree, or a file of the bundle is missing or is not a regular file.
        FileNotFoundError: If the weights file does not exist.
    """
    version = checked_version(root)
    bundle = root / "mp3d_bundle"
    files = source_files(bundle)
    if weights is not None and not weights.is_file():
        raise FileNotFoundError(f"Expected trained weights, found no file {weights}.")
    shipped = {**{name: bundle / name for name in SHIPPED}, TRAINED: weights or bundle / DEMO}
    listed = listing(shipped, releases, version).encode()
    output.mkdir(parents=True, exist_ok=True)
    target = output / f"{bundle.name}_v{version}.zip"
    write_zip(target, bundle.name, {**files, **shipped, LISTING: listed})
    target.with_name(f"{target.name}.sha256").write_text(f"{digest(target)}  {target.name}\n", encoding="utf-8")
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Pack the bundle as a zip.")
    parser.add_argument("--weights", type=Path, help="trained weights to ship as models/model.pt")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="folder of the zip (default: dist)")
    parser.add_argument("--releases", default=RELEASES, help="address of the release downloads, for large_files.yml")
    parser.add_argument(
        "--list", action="store_true", help=f"only write mp3d_bundle/{LISTING} anew, for the weights in git"
    )
    given = parser.parse_args(arguments)
    try:
        if given.list:
            text = listing({name: BUNDLE / name for name in SHIPPED}, given.releases, checked_version(ROOT))
            (BUNDLE / LISTING).write_text(text, encoding="utf-8")
            return
        target = make_bundle(given.output, weights=given.weights, releases=given.releases)
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")
    print(f"Wrote {target} ({target.stat().st_size / 1e6:.1f} MB) and its .sha256.")
    if given.weights is None:
        print(
            "Its models/model.pt is the demo's, from synthetic images: it finds no real lesions. "
            "--weights FILE ships trained weights instead."
        )


if __name__ == "__main__":
    main()
