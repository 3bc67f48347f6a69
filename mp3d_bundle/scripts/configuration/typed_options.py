"""What a run can learn of its surroundings: the config and workflow that build it, the options as the user typed them.

MONAI gives a config no way to refer to itself, to its workflow, or to the options of the command line, and it changes
texts on their way into a config. This is the only module that looks at the call stack for them. The other two places
that reach beyond their arguments are `scripts.command_words`, which reads ``sys.argv``, and `scripts.error_lines`,
which sets ``sys.excepthook``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.scripts import create_workflow, load
from monai.utils import ensure_tuple

from ..command_words import MARKS, RUN_ARGUMENTS, as_typed, typed_options

_Owner = TypeVar("_Owner")


def _callers() -> Iterator[FrameType]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def current_parser() -> ConfigParser | None:
    """The config parser that is building the caller, or None outside of a config.

    Whatever is built from a config is built by its parser, which is therefore on the call stack.
    """
    return _caller(ConfigParser)


def current_workflow() -> ConfigWorkflow | None:
    """The workflow that is running the caller, or None; it knows which ids it runs, the config does not."""
    return _caller(ConfigWorkflow)


def _caller(kind: type[_Owner]) -> _Owner | None:
    """The nearest caller that is a method of an object of a kind: that object."""
    owners = (frame.f_locals.get("self") for frame in _callers())
    return next((owner for owner in owners if isinstance(owner, kind)), None)


def ids_asked() -> tuple[str, ...]:
    """Ids that the code around a workflow reads once it is initialized: the network, if MONAI's ``load`` made it."""
    return ("network_def",) if any(frame.f_code is load.__code__ for frame in _callers()) else ()


def given_options() -> dict[str, Any]:
    """Options of ``monai.bundle run``, of its ``--args_file``, or of the function called from Python.

    Returns:
        Value by key, ``train#dataloader`` for ``train::dataloader``; {} where the workflow was made otherwise, and
        once it is initialized.
    """
    for frame in _callers():
        if frame.f_code is create_workflow.__code__:
            found = frame.f_locals.get("_args", {})
            named = {str(key).removeprefix("+").replace("::", "#"): value for key, value in found.items()}
            return {key: value for key, value in named.items() if key not in RUN_ARGUMENTS}
    return {}


def config_files() -> tuple[str, ...]:
    """Paths of the config files of ``monai.bundle run`` in their order; none where the workflow was made otherwise."""
    for frame in _callers():
        if frame.f_code is create_workflow.__code__:
            return tuple(map(str, ensure_tuple(frame.f_locals.get("config_file") or ())))
    return ()


def take_as_typed(parser: ConfigParser, names: Iterable[str]) -> None:
    """Put paths and other texts into a config as the user typed them.

    Fire takes ``2024_01_05`` for a number, ``Doe,John`` for two words and what follows ``#`` for a comment, and
    MONAI replaces ``#`` by ``::`` in every text, in those of files too. The config is changed in place, its
    resolved content as well, so this belongs before anything that reads the texts.

    Args:
        parser: Parser of the config. One that has not parsed it yet has its texts still as they are.
        names: Top-level keys that hold a text, a path or a list of paths.
    """
    if not parser.ref_resolver.items:
        return
    given, typed = given_options(), typed_options()
    for name in names:
        if name not in parser:
            continue
        value = parser.get(name)
        if name in given:
            text = typed.get(name)
            own = text is not None and _same(DefaultParseValue(text), given[name])
            value = as_typed(text) if text is not None and own else given[name]
        # In a list of the caller MONAI has changed the texts in place.
        if name not in given or isinstance(value, list):
            value = _without_separator(value)
        if _is_text(value):
            parser.get()[name] = value
            # The resolver would replace the "#" once more.
            parser.ref_resolver.resolved_content[name] = value


def take_none(parser: ConfigParser, names: Iterable[str]) -> None:
    """Set the options to None that the user typed as ``None`` or ``null``: MONAI leaves out each None of the caller.

    Args:
        parser: Parser of the config, changed in place as in `take_as_typed`.
        names: Top-level keys that may be None.
    """
    typed = typed_options()
    for name in names:
        if typed.get(name) in ("None", "null") and name in parser and parser.ref_resolver.items:
            parser.get()[name] = None
            parser.ref_resolver.resolved_content[name] = None


def _same(one: Any, two: Any) -> bool:
    return repr(one).replace("#", "::") == repr(two).replace("#", "::")


def _is_text(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_text(item) for item in value)
    return isinstance(value, str) and not value.startswith(MARKS)


def _without_separator(value: Any) -> Any:
    """A text of a file, in which MONAI has replaced "#"; a path that does hold "::" stays."""
    if isinstance(value, list):
        return [_without_separator(item) for item in value]
    if not isinstance(value, str) or value.startswith(MARKS) or os.path.exists(value):
        return value
    return value.replace("::", "#")
