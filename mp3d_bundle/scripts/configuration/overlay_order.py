"""Overlays of one run that undo each other: the last file that sets a key wins, whatever the user meant.

A key that two overlays set differently is logged. A key that is lost because a later overlay replaces the whole part
around it is an error: the rest of its overlay still counts, and the run would silently be another one. An overlay that
replaces a part on purpose, with whatever others set in it, lists it under ``_replaces_``. Imports neither PyTorch nor
MONAI.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

logger = logging.getLogger(__name__)

SEPARATOR = "::"
_MERGE = "+"
_REPLACES = "_replaces_"
_ABSENT = object()
Place = tuple[str, ...]


@dataclass(frozen=True)
class _Setting:
    """What a file sets at a place of the config."""

    file: str
    place: Place
    value: Any

    def at(self, place: Place) -> Any:
        """What it sets at a place at or below its own."""
        value = self.value
        for part in place[len(self.place) :]:
            value = value[part] if isinstance(value, Mapping) and part in value else _ABSENT
        return value


def overlay_complaints(files: Sequence[tuple[str, Mapping[str, Any]]], *, log: bool = True) -> Iterator[str]:
    """Yield a complaint for each key of an overlay that a later one removes; log those that it sets otherwise.

    Args:
        files: Name and content of the config files in their order, as they are written. Those with a ``run`` or a
            ``_desc_`` are what overlays are for: what they set may be replaced, but they come first.
        log: Whether to log.
    """
    known: list[_Setting] = []
    for name, content in files:
        new, on_purpose = list(_settings(name, content)), [_place(key) for key in content.get(_REPLACES) or ()]
        for setting in new:
            for old in known if setting.place not in on_purpose else ():
                yield from _compared(old, setting, log=log)
            known = [old for old in known if old.place[: len(setting.place)] != setting.place]
        known += [] if {"run", "_desc_"} & set(content) else new


def _place(key: str) -> Place:
    return tuple(key.replace("#", SEPARATOR).split(SEPARATOR))


def _settings(name: str, content: Mapping[str, Any]) -> Iterator[_Setting]:
    """What a file replaces; keys with an underscore are free, and what is added to a list replaces nothing."""
    for key, value in content.items():
        merged, place = key.startswith(_MERGE), _place(key.removeprefix(_MERGE))
        if place[0].startswith("_") or (merged and not isinstance(value, Mapping)):
            continue
        inner = {(*place, str(part)): each for part, each in value.items()} if merged else {place: value}
        yield from (_Setting(PurePath(name).name, *each) for each in inner.items())


def _compared(old: _Setting, new: _Setting, *, log: bool) -> Iterator[str]:
    """A complaint if a later setting removes another file's; a line in the log if it changes it."""
    shared = min(len(old.place), len(new.place))
    if old.place[:shared] != new.place[:shared]:
        return
    inner = max(old.place, new.place, key=len)
    was, now = old.at(inner), new.at(inner)
    if was is _ABSENT or was == now:
        return
    key = "#".join(inner)
    if len(old.place) > len(new.place):
        whole = "#".join(new.place)
        yield (
            f"config key {key} of {old.file} is lost: {new.file} comes later and replaces {whole} as a whole. Put "
            f"{old.file} behind {new.file} if they go together (docs/rows.md), or leave it out"
        )
    elif log:
        shown = (reprlib.repr(value) for value in (now, was))
        logger.warning("%s: %s sets %s in place of %s from %s.", key, new.file, *shown, old.file)
