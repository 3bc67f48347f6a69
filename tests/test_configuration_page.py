"""docs/configuration.md: made from the configs, current, and no key without a meaning or meaning without a key."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from scripts.configuration.option_rules import RULES
from scripts.configuration.read_keys import ids_read, is_read, normal
from support.packed_bundle import REPOSITORY


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    """``tools/configuration_page.py`` as a module."""
    spec = importlib.util.spec_from_file_location("configuration_page", REPOSITORY / "tools" / "configuration_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def changed(tool: ModuleType, tmp_path: Path) -> Callable[[str, str], str]:
    """The page of configs with one more key, and the meaning of that key ("" for none)."""

    def made(key: str, said: str) -> str:
        configs = shutil.copytree(tool.CONFIGS, tmp_path / "configs")
        config = json.loads((configs / "train.json").read_text())
        (configs / "train.json").write_text(json.dumps({**config, **({key: 0.25} if key else {})}))
        meanings = yaml.safe_load(tool.MEANINGS.read_text())
        (tmp_path / "meanings.yaml").write_text(yaml.safe_dump({**meanings, **({"colour": said} if said else {})}))
        return tool.page(configs, tmp_path / "meanings.yaml")

    return made


def test_the_page_is_what_the_configs_make(tool: ModuleType) -> None:
    assert tool.PAGE.read_text(encoding="utf-8") == tool.page(), "run python tools/configuration_page.py"


def test_a_key_is_listed_with_its_default_and_meaning(changed: Callable[[str, str], str]) -> None:
    assert "\n| `colour` | `0.25` | Of the paint. |\n" in changed("colour", "Of the paint.")


def test_a_key_without_a_meaning_stops_the_page(changed: Callable[[str, str], str]) -> None:
    with pytest.raises(ValueError, match=r"Expected a meaning of colour of train\.json in "):
        changed("colour", "")


def test_a_meaning_without_a_key_stops_the_page(changed: Callable[[str, str], str]) -> None:
    with pytest.raises(ValueError, match=r"meanings of existing keys only, got colour in "):
        changed("", "Of the paint.")


def test_every_option_with_a_rule_is_in_the_page(tool: ModuleType) -> None:
    text = tool.PAGE.read_text(encoding="utf-8")
    assert not [name for name in RULES if f"| `{name}` |" not in text]


def test_keys_for_another_program_come_together_and_no_run_reads_them(tool: ModuleType) -> None:
    for file, (keys, reason) in tool.OTHERS_READ.items():
        config = json.loads((tool.CONFIGS / file).read_text())
        own = [name for name in config if name not in tool.FRAME and not name.startswith("_")]
        assert own[-len(keys) :] == list(keys)
        found = ids_read(normal(config), tool.FRAME)
        assert not [key for key in keys if is_read(key, found)]
        assert f"\n\n{reason}\n\n| key | default | meaning |\n" in tool.PAGE.read_text(encoding="utf-8")


def test_an_old_page_is_noticed(tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "PAGE", tmp_path / "configuration.md")
    with pytest.raises(SystemExit, match="out of date"):
        tool.main(["--check"])
    tool.main([])
    tool.main(["--check"])
    tool.PAGE.write_text(tool.PAGE.read_text().replace("`24`", "`25`"))
    with pytest.raises(SystemExit, match="out of date"):
        tool.main(["--check"])
