"""What a study is made of: tables, rows, settings, profiles and orderings, read from ``tables.yaml``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SOURCE = Path(__file__).with_name("tables.yaml")
STARTS = ("scratch", "pretrained", "imagenet")
# The paper's columns: sensitivity at these false positives per image, then MAP@0.5.
COLUMNS = ("0.5", "1", "2", "4", "MAP@0.5")


@dataclass(frozen=True)
class Setting:
    """A way to train a detector, as a row of a table names it.

    Attributes:
        name: Name in ``tables.yaml``.
        overlays: Names of ``configs/variants/*.yaml`` for training and evaluation.
        schedule: ``"1x"``, ``"2x"`` or ``"6x"``.
        start: ``"scratch"``, ``"pretrained"``, or ``"imagenet"`` for the 2D baselines.
        weights: Weights file of a pre-trained start; None for the profile's.
        share: Per cent of the training images.
    """

    name: str
    overlays: tuple[str, ...] = ()
    schedule: str = "2x"
    start: str = "scratch"
    weights: str | None = None
    share: int = 100

    @property
    def key(self) -> str:
        """Name of the folder of its runs; settings that are the same training have the same."""
        parts = ["+".join(self.overlays) or "mp3d_9", self.start, self.schedule]
        return "_".join([*parts, f"{self.share}pct"] if self.share != 100 else parts)


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        label: What the table calls it.
        paper: The published figures in per cent for ``COLUMNS``; None where there is none.
        setting: Name of the setting; None for a method that the study does not run.
        share: Per cent of the training images.
        why: Why it is not run, where there is no setting.
        source: Where the figures are from.
    """

    label: str
    paper: tuple[float | None, ...]
    setting: str | None = None
    share: int = 100
    why: str = ""
    source: str = "paper"

    @property
    def id(self) -> str:
        """How ``--rows`` names it: the setting, with ``@share`` unless that is 100."""
        name = self.setting or re.sub(r"\W+", "_", self.label.lower()).strip("_")
        return name if self.share == 100 else f"{name}@{self.share}"


@dataclass(frozen=True)
class Table:
    """A table of the paper; ``shares`` are its columns where it is by share of the training images."""

    name: str
    title: str
    rows: tuple[Row, ...]
    shares: tuple[int, ...] = ()


@dataclass(frozen=True)
class Profile:
    """How settings become commands.

    Attributes:
        name: ``"full"`` or ``"reduced"``.
        overlays: Overlays of every training, before those of the setting.
        size: Overlays of every training and evaluation that set the size of the network, before all others.
        own_sizes: In their place, behind those of the setting, by its name: a network that comes whole has its own.
        training_options: Further options of every training.
        evaluation_options: Further options of every evaluation.
        setting_options: Further options of a setting's trainings and evaluations, by its name.
        rate_keys: Config keys that hold the learning rate.
        imagenet_overlays: Overlays of a start from ImageNet; none to start from scratch in its place.
        scratch_tables: Tables whose pre-trained rows start from scratch.
        weights: Weights of a pre-trained start; None if the study makes its own.
        epochs_1x: Epochs of the 1x schedule; None for the schedule overlays with the paper's.
    """

    name: str
    overlays: tuple[str, ...] = ()
    size: tuple[str, ...] = ()
    own_sizes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    training_options: Mapping[str, Any] = field(default_factory=dict)
    evaluation_options: Mapping[str, Any] = field(default_factory=dict)
    setting_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rate_keys: tuple[str, ...] = ()
    imagenet_overlays: tuple[str, ...] = ()
    scratch_tables: tuple[str, ...] = ()
    weights: str | None = None
    epochs_1x: int | None = None


@dataclass(frozen=True)
class Study:
    """Everything in ``tables.yaml``."""

    settings: Mapping[str, Setting]
    tables: Mapping[str, Table]
    profiles: Mapping[str, Profile]
    schedules: Mapping[str, int]
    orderings: tuple[Mapping[str, str], ...]
    margin: float

    def resolve(self, table: str, name: str, profile: Profile) -> Setting:
        """The setting that a row of a table stands for.

        Args:
            table: Name of the table.
            name: Setting, with ``@share`` for a share of the training images.
            profile: Decides whether the table's rows start from scratch.

        Raises:
            ValueError: If there is no such setting.
        """
        base, _, share = name.partition("@")
        if base not in self.settings:
            raise ValueError(f"Expected a setting out of {', '.join(self.settings)}, got {base!r}.")
        setting = self.settings[base]
        available = {"pretrained": table not in profile.scratch_tables, "imagenet": bool(profile.imagenet_overlays)}
        start = setting.start if available.get(setting.start) else "scratch"
        weights = setting.weights if start == "pretrained" else None
        return Setting(base, setting.overlays, setting.schedule, start, weights, int(share or 100))

    def select(self, tables: Iterable[str], rows: Sequence[str] = ()) -> list[tuple[Table, Row]]:
        """Rows to run, in the order of the tables.

        Args:
            tables: Names of tables.
            rows: Ids of rows (see ``Row.id``); all if empty.

        Raises:
            ValueError: If a table or row is unknown, or none is left.
        """
        chosen = []
        for name in tables:
            if name not in self.tables:
                raise ValueError(f"Expected tables out of {', '.join(self.tables)}, got {name!r}.")
            chosen += [(self.tables[name], row) for row in self.tables[name].rows]
        known = {row.id for _, row in chosen}
        if unknown := [row for row in rows if row not in known]:
            raise ValueError(f"Expected rows out of {', '.join(sorted(known))}, got {unknown[0]!r}.")
        return [(table, row) for table, row in chosen if row.setting and (not rows or row.id in rows)]


def _row(fields: Mapping[str, Any]) -> Row:
    return Row(**{**fields, "paper": tuple(fields["paper"])})


def _shares(table: Mapping[str, Any]) -> list[Row]:
    rows = []
    for method in table["methods"]:
        for share, figure in zip(table["shares"], method["paper"], strict=True):
            paper = (None, None, None, None, figure)
            rows.append(Row(f"{method['label']}, {share} %", paper, method["setting"], share))
    return rows


def load_study(path: Path = SOURCE) -> Study:
    """Read the tables.

    Args:
        path: YAML file like ``research/tables.yaml``.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a row names a setting, schedule or start that is not there.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings = {
        name: Setting(name, **{**fields, "overlays": tuple(fields.get("overlays", ()))})
        for name, fields in content["settings"].items()
    }
    tables = {}
    for name, table in content["tables"].items():
        rows = [_row(fields) for fields in table.get("rows", ())] or _shares(table)
        tables[name] = Table(name, table["title"], tuple(rows), tuple(table.get("shares", ())))
    study = Study(
        settings=settings,
        tables=tables,
        profiles={name: Profile(name, **fields) for name, fields in content["profiles"].items()},
        schedules=content["schedules"],
        orderings=tuple(content["orderings"]),
        margin=float(content["margin"]),
    )
    _check(study, path)
    return study


def _check(study: Study, path: Path) -> None:
    for setting in study.settings.values():
        if setting.start not in STARTS or setting.schedule not in study.schedules:
            raise ValueError(f"Expected a known start and schedule, got {setting} in {path}.")
    for profile in study.profiles.values():
        if unknown := {*profile.setting_options, *profile.own_sizes} - set(study.settings):
            raise ValueError(f"Expected options and sizes of known settings, got {sorted(unknown)} in {path}.")
    for table in study.tables.values():
        for row in table.rows:
            if len(row.paper) != len(COLUMNS):
                raise ValueError(f"Expected {len(COLUMNS)} figures of the paper, got {row} in {path}.")
            if row.setting is not None and row.setting not in study.settings:
                raise ValueError(f"Expected a setting out of {', '.join(study.settings)}, got {row} in {path}.")
