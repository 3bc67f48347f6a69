"""Which keys of a config the run reads, and which the user set in vain."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from monai.bundle import ReferenceResolver

SEPARATOR = "::"
# Keys that an overlay sets for another workflow on purpose, by the workflow that reads them: an overlay's own list.
SHARED = "_shared_"
# These serve the whole config, or say where it lies: nothing needs to read them.
_FREE = ("bundle_root", "imports")
# Makes the network that a weights file describes.
_FROM_WEIGHTS = "scripts.workflows.trained_weights.network_with_weights"
# What is only written next to the results has no effect on them.
_RECORDS = ("writer::settings",)
# Arguments of MONAI's engines that the steps of this bundle do not read, or that the schedule would not follow.
_NOT_READ = {
    "amp": "has no effect: give --amp",
    "amp_kwargs": "has no effect: give --amp and --amp_dtype",
    "to_kwargs": "has no effect",
    "optim_set_to_none": "has no effect",
    "epoch_length": "is not taken, as an epoch is one pass over the images: --train_fraction takes fewer of them",
}


def normal(node: Any) -> Any:
    """A config with ``::`` for ``#`` in its texts and ids, as MONAI has it once it is parsed."""
    if isinstance(node, Mapping):
        return {str(name).replace("#", SEPARATOR): normal(value) for name, value in node.items()}
    if isinstance(node, list):
        return [normal(value) for value in node]
    return node.replace("#", SEPARATOR) if isinstance(node, str) else node


def item(config: Any, name: str) -> Any:
    """One item of a config; None where there is none."""
    for part in name.split(SEPARATOR):
        if isinstance(config, Mapping):
            config = config.get(part)
        elif isinstance(config, list) and part.isdigit() and int(part) < len(config):
            config = config[int(part)]
        else:
            return None
    return config


def _texts(node: Any, place: str) -> Iterator[str]:
    if place in _RECORDS:
        return
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _texts(value, f"{place}{SEPARATOR}{name}")
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _texts(value, f"{place}{SEPARATOR}{index}")
    elif isinstance(node, str):
        yield node


def ids_read(config: Mapping[str, Any], roots: Iterable[str]) -> set[str]:
    """Follow references and expressions from what a run evaluates.

    Args:
        config: See `normal`.
        roots: Ids that are evaluated: ``initialize``, ``training``, ``finalize``.

    Returns:
        Every id that is reached; what lies below one is read with it.
    """
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            for text in _texts(item(config, name), name):
                waiting += ReferenceResolver.match_refs_pattern(text)
    return found


def is_read(name: str, found: Collection[str]) -> bool:
    """Whether an id, something above it or something below it is among those that are read."""
    parts = name.split(SEPARATOR)
    above = (SEPARATOR.join(parts[: length + 1]) for length in range(len(parts)))
    return any(place in found for place in above) or any(other.startswith(name + SEPARATOR) for other in found)


def changes(config: Mapping[str, Any], bases: Collection[Mapping[str, Any]], place: str = "") -> Iterator[str]:
    """Ids of a config whose value none of the bases has there; keys that begin with an underscore are free."""
    for name, value in config.items():
        theirs = [base[name] for base in bases if name in base]
        if str(name).startswith("_") or any(_equal(value, other) for other in theirs):
            continue
        here = f"{place}{SEPARATOR}{name}" if place else str(name)
        inner = [other for other in theirs if isinstance(other, Mapping)]
        if isinstance(value, Mapping) and inner:
            yield from changes(value, inner, here)
        else:
            yield here


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, bool) != isinstance(two, bool):
        return False
    try:
        return bool(one == two)
    except (RuntimeError, TypeError, ValueError):  # arrays
        return False


def unread(
    config: Mapping[str, Any],
    entries: Mapping[str, Mapping[str, Any]],
    *,
    used: Collection[str],
    roots: Collection[str],
    given: Collection[str] = (),
) -> Iterator[str]:
    """Yield a complaint for each key that was set and that nothing reads.

    Args:
        config: The merged config, see `normal`.
        entries: The bundle's own configs by file name, see `normal`.
        used: Those of them of which the config is made.
        roots: Ids that the run evaluates.
        given: Ids of options, as against keys of files; ``_shared_`` does not excuse them.
    """
    found = ids_read(config, roots)
    shared = [name.replace("#", SEPARATOR) for name in config.get(SHARED, {})]
    for name in dict.fromkeys([*given, *changes(config, [entries[file] for file in used])]):
        free = name.split(SEPARATOR)[0] in _FREE or name.startswith("_")
        if free or is_read(name, found):
            continue
        excused = any(f"{name}{SEPARATOR}".startswith(f"{other}{SEPARATOR}") for other in shared)
        if not excused or name in given:
            yield _complaint(name, entries, used=used)
    yield from _overruled(config, given)


def _complaint(name: str, entries: Mapping[str, Mapping[str, Any]], *, used: Collection[str]) -> str:
    shown, readers = name.replace(SEPARATOR, "#"), " or ".join(sorted(used))
    top = name.split(SEPARATOR)[0]
    if any(item(entries[file], f"{top}{SEPARATOR}_target_") == _FROM_WEIGHTS for file in used):
        return f"config key {shown} has no effect: the network of {readers} is the one that --checkpoint FILE describes"
    owners = [file for file, entry in entries.items() if item(entry, name) is not None or name in entry]
    # Prefer configs that run alone to overlays that set the key too.
    owners = [file for file in owners if "run" in entries[file]] or owners
    if not owners:
        similar = _similar(name, list(entries.values()))
        return f"unknown config key {shown}" + (f" (did you mean {similar}?)" if similar else "")
    if set(owners) & set(used):
        return (
            f"config key {shown} has no effect: what reads it in {readers} is replaced here, by an overlay or by "
            "another option"
        )
    return f"config key {shown} belongs to {' and '.join(owners)}, and nothing in {readers} reads it"


def _similar(name: str, bases: list[Mapping[str, Any]]) -> str:
    """The id that was probably meant, "" if none is alike."""
    path: list[str] = []
    for part in name.split(SEPARATOR):
        names = {key for base in bases for key in base}
        if part not in names:
            alike = difflib.get_close_matches(part, names, n=1)
            return "#".join([*path, *alike]) if alike else ""
        path.append(part)
        bases = [base[part] for base in bases if isinstance(base.get(part), Mapping)]
    return ""


def _overruled(config: Mapping[str, Any], given: Collection[str]) -> Iterator[str]:
    """Yield a complaint for each argument that is passed and that another part overrides."""
    for place in ("train::trainer", "validate::evaluator", "evaluator"):
        engine = item(config, place)
        if isinstance(engine, Mapping) and "iteration_update" in engine:
            for name, reason in _NOT_READ.items():
                if name in engine:
                    yield f"config key {place.replace(SEPARATOR, '#')}#{name} {reason}"
    peak, rate = item(config, "lr_scheduler::max_lr"), item(config, "optimizer::lr")
    if "optimizer::lr" in given and peak not in (None, rate, "@optimizer::lr"):
        yield "config key optimizer#lr has no effect: lr_scheduler#max_lr sets the learning rate of every iteration"
