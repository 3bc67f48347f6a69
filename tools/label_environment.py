"""Build `.venv-label`, MONAI Label's own environment, once; run by `tools/label_setup.sh`.

It is the set-up of `tools/environment.py` with another folder and lock file and one more step: uv does not install the
data folder of MONAI Label's wheel, so its program and sample apps would be missing; pip installs them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

# Python was started in isolated mode, so this folder is not on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))
import environment

ENVIRONMENT = environment.ROOT / ".venv-label"
PACKAGE = "monailabel"
# Installed by pip; its presence is checked.
SAMPLE_APP = ENVIRONMENT / PACKAGE / "sample-apps" / "monaibundle" / "main.py"

install_locked = environment.install


def entry_of(package: str, lock: str) -> str:
    """The lines of one package in a lock file: version and hashes.

    Raises:
        ValueError: If it is missing in the file.
    """
    found = re.search(rf"^{re.escape(package)}==.*?(?=^\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"Expected {package} in the lock file, found none.")
    return found[0]


def install(needed_gib: float) -> None:
    """Install the lock file into `.venv-label`, including MONAI Label's programs and sample apps.

    Args:
        needed_gib: Required disk space of uv's cache if it is on a separate disk.
    """
    install_locked(needed_gib)
    entry = ENVIRONMENT / f"{PACKAGE}.lock"
    entry.write_text(entry_of(PACKAGE, environment.LOCK.read_text(encoding="utf-8")), encoding="utf-8")
    pip = ("-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-q", "--require-hashes")
    done, output = environment.run(*pip, "--no-deps", "--force-reinstall", "-r", str(entry), quiet=True)
    if not done:
        environment.fail(output)
    if not SAMPLE_APP.is_file():
        environment.stop(f"pip installed {PACKAGE} without its sample apps: there is no {SAMPLE_APP}.")


def main() -> None:
    """Bring `.venv-label` up to date with its lock file; no effect if it already is."""
    environment.ENVIRONMENT = ENVIRONMENT
    environment.ENVIRONMENT_PYTHON = ENVIRONMENT / "bin" / "python"
    environment.STAMP = ENVIRONMENT / ".setup-complete"
    environment.LOCK = environment.ROOT / "integrations" / "monai_label" / "requirements.lock"
    environment.SPACE_GIB = {"linux": 9.0, "darwin": 4.0}
    environment.IMPORTED = "torch, torchvision, monai, ignite, itk, cv2, monailabel.main, monailabel.interfaces.app"
    environment.install = install
    environment.main()


if __name__ == "__main__":
    main()
