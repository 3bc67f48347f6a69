"""`make bundle`: the same bytes from the same files, all of the bundle and nothing else, trained weights if given."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
import yaml

from support.packed_bundle import DEMO, REPOSITORY, load_tool, unpack

tool = load_tool()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is packed, free to be changed."""
    root = tmp_path / "checkout"
    shutil.copytree(
        REPOSITORY / "mp3d_bundle",
        root / "mp3d_bundle",
        ignore=lambda folder, names: {name for name in names if name == "__pycache__" or Path(folder).name == "models"},
    )
    for name in ("models/README.md", *tool.SHIPPED):
        shutil.copy(REPOSITORY / "mp3d_bundle" / name, root / "mp3d_bundle" / name)
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(REPOSITORY / name, root)
    return root


def test_two_builds_are_equal_wherever_whenever_and_by_whomever(checkout: Path, tmp_path: Path) -> None:
    first = tool.make_bundle(tmp_path / "one", root=checkout)
    copy = shutil.copytree(checkout, tmp_path / "elsewhere" / "other name")
    for path in (copy / "mp3d_bundle").rglob("*.py"):
        os.utime(path, (1e9, 1e9))
        path.chmod(0o755)
    umask = os.umask(0o077)
    try:
        second = tool.make_bundle(tmp_path / "two", root=copy)
    finally:
        os.umask(umask)
    assert first.read_bytes() == second.read_bytes()
    assert {path.name for path in (tmp_path / "one").iterdir()} == {first.name, f"{first.name}.sha256"}
    assert re.fullmatch(r"mp3d_bundle_v\d+\.\d+\.\d+\.zip", first.name)
    told = first.with_name(f"{first.name}.sha256").read_text()
    assert told == f"{hashlib.sha256(first.read_bytes()).hexdigest()}  {first.name}\n"


def test_a_change_changes_the_bytes(checkout: Path, tmp_path: Path) -> None:
    first = tool.make_bundle(tmp_path, root=checkout).read_bytes()
    with (checkout / "mp3d_bundle" / "docs" / "README.md").open("a") as card:
        card.write("more\n")
    assert tool.make_bundle(tmp_path, root=checkout).read_bytes() != first


def test_results_caches_and_weights_of_runs_stay_at_home(checkout: Path, tmp_path: Path) -> None:
    clean = tool.make_bundle(tmp_path / "clean", root=checkout).read_bytes()
    bundle = checkout / "mp3d_bundle"
    junk = ["models/model.pt", "models/last.pt", "models/run.json", "models/config.json", "eval/metrics.json"]
    junk += ["models/tensorboard/events", "scripts/__pycache__/boxes.cpython-311.pyc", "scripts/data/x.pyc", "runs/x"]
    junk += ["configs/.hidden.json", ".part", "models/coco_mp3d63.pt"]
    for name in junk:
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text("x")
    assert tool.make_bundle(tmp_path / "dirty", root=checkout).read_bytes() == clean


def test_the_zip_holds_what_git_holds(tmp_path: Path) -> None:
    with zipfile.ZipFile(tool.make_bundle(tmp_path)) as content:
        entries = content.infolist()
    names = {entry.filename for entry in entries}
    assert {name.split("/")[0] for name in names} == {"mp3d_bundle"}
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}
    assert {f"mp3d_bundle/models/{name}.pt" for name in ("demo", "model", "sarcoma", "synthetic")} <= names
    listed = subprocess.run(["git", "ls-files", "mp3d_bundle"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the repository's files")
    assert set(listed.stdout.split()) <= names


def test_trained_weights_are_shipped_and_listed(checkout: Path, tmp_path: Path) -> None:
    weights = tmp_path / "best.pt"
    weights.write_bytes(b"trained")
    archive = tool.make_bundle(tmp_path, root=checkout, weights=weights, releases="https://example.org/releases/")
    bundle = unpack(archive, tmp_path)
    assert (bundle / "models" / "model.pt").read_bytes() == b"trained"
    listed = {entry["path"]: entry for entry in yaml.safe_load((bundle / "large_files.yml").read_text())["large_files"]}
    assert set(listed) == {*tool.SHIPPED, "models/model.pt"}
    for name, entry in listed.items():
        assert entry["hash_type"] == "sha256"
        assert entry["hash_val"] == hashlib.sha256((bundle / name).read_bytes()).hexdigest()
        assert entry["url"] == f"https://example.org/releases/v{tool.checked_version(checkout)}/{Path(name).name}"


def test_without_trained_weights_the_demos_take_their_place_and_say_so(tmp_path: Path) -> None:
    bundle = unpack(tool.make_bundle(tmp_path), tmp_path)
    assert (bundle / "models" / "model.pt").read_bytes() == DEMO.read_bytes()
    notice = torch.load(bundle / "models" / "model.pt", weights_only=True)["info"]["notice"]
    assert "synthetic" in notice
    assert "no real lesions" in notice
    listed = yaml.safe_load((bundle / "large_files.yml").read_text())["large_files"]
    assert [entry["path"] for entry in listed] == sorted([*tool.SHIPPED, "models/model.pt"])
    assert len({entry["hash_val"] for entry in listed}) == len(tool.SHIPPED)


def test_the_list_in_the_repository_is_about_the_weights_in_it() -> None:
    weights = {name: REPOSITORY / "mp3d_bundle" / name for name in tool.SHIPPED}
    wanted = tool.listing(weights, tool.RELEASES, tool.checked_version(REPOSITORY))
    assert (REPOSITORY / "mp3d_bundle" / "large_files.yml").read_text() == wanted, (
        "write it anew: python tools/make_bundle.py --list"
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [("pyproject.toml", "in pyproject.toml, got 9.9.9"), ("CHANGELOG.md", r"heading '## \[\d.*\]' in CHANGELOG.md")],
)
def test_versions_must_agree(checkout: Path, tmp_path: Path, file: str, message: str) -> None:
    version = tool.checked_version(checkout)
    path = checkout / file
    path.write_text(
        path.read_text().replace(f'version = "{version}"', 'version = "9.9.9"').replace(f"[{version}]", "[x]")
    )
    with pytest.raises(ValueError, match=message):
        tool.make_bundle(tmp_path / "dist", root=checkout)
    assert not (tmp_path / "dist").exists()


def test_what_cannot_be_packed_says_so(checkout: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.pt"):
        tool.make_bundle(tmp_path / "dist", root=checkout, weights=tmp_path / "none.pt")
    (checkout / "mp3d_bundle" / "models" / "demo.pt").unlink()
    with pytest.raises(ValueError, match=r"regular file to ship, got .*demo\.pt"):
        tool.make_bundle(tmp_path / "dist", root=checkout)
    shutil.copy(DEMO, checkout / "mp3d_bundle" / "models")
    (checkout / "mp3d_bundle" / "docs" / "link.md").symlink_to("README.md")
    with pytest.raises(ValueError, match=r"regular file to ship, got .*link\.md"):
        tool.make_bundle(tmp_path / "dist", root=checkout)
    assert not (tmp_path / "dist").exists()
    with pytest.raises(SystemExit, match=r"Error: Expected trained weights, found no file none\.pt"):
        tool.main(["--weights", "none.pt", "--output", str(tmp_path / "dist")])


def test_command_line_says_what_is_not_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool.main(["--output", str(tmp_path)])
    assert "finds no real lesions" in capsys.readouterr().out
    tool.main(["--output", str(tmp_path), "--weights", str(DEMO)])
    assert "finds no real lesions" not in capsys.readouterr().out


def test_links_of_the_documents_stay_inside(tmp_path: Path) -> None:
    bundle = unpack(tool.make_bundle(tmp_path), tmp_path)
    broken = []
    for path in bundle.rglob("*.md"):
        # Code has brackets of its own.
        prose = re.sub(r"(?ms)^```.*?^```|`[^`\n]*`", "", path.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
            there = (path.parent / target).resolve()
            if "://" not in target and not (there.exists() and there.is_relative_to(bundle.resolve())):
                broken.append(f"{path.relative_to(bundle)}: {target}")
    assert not broken, "\n".join(broken)
