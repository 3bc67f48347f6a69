"""Command lines that answer ``--help`` and wrong options at once: PyTorch and MONAI take seconds to import.

Each command-line module at the top of `scripts` names a function of another module. Its signature and docstring are
read from the source; the module itself is imported only when the function is called. Texts arrive as the user typed
them, and an error about the input ends in one line.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fire
from fire.parser import DefaultParseValue

from .command_words import as_typed, split_words
from .interrupts import end_interrupted, interrupted_at_once
from .storage.printable import SHOW_TRACEBACK, escape_output
from .tools.early_checks import CHECKS

SCRIPTS = Path(__file__).resolve().parent
# Errors about the input. Their message is enough: the user does not need a traceback.
INPUT_ERRORS = (ValueError, OSError, ImportError)
_KINDS = inspect.Parameter
# Types of parameters that are checked before the function is imported: in words, and the types that Fire may make.
_VALUES = {
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("True or False", (bool,)),
}


def _parameters(arguments: ast.arguments) -> Iterator[inspect.Parameter]:
    """Parameters of a function's syntax tree; defaults must be plain values."""
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        yield _parameter(argument, _KINDS.POSITIONAL_OR_KEYWORD, default)
    if arguments.vararg:
        yield _parameter(arguments.vararg, _KINDS.VAR_POSITIONAL, None)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(argument, _KINDS.KEYWORD_ONLY, default)
    if arguments.kwarg:
        yield _parameter(arguments.kwarg, _KINDS.VAR_KEYWORD, None)


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None) -> inspect.Parameter:
    value = _KINDS.empty if default is None else ast.literal_eval(default)
    annotation = ast.unparse(argument.annotation) if argument.annotation else _KINDS.empty
    return inspect.Parameter(argument.arg, kind, default=value, annotation=annotation)


def described(module: str, function: str) -> tuple[inspect.Signature, str]:
    """Signature and docstring of a function, read from its source without importing it.

    Args:
        module: Module below `scripts`, such as ``tools.make_synthetic``.
        function: Name of the function at its top level.

    Raises:
        ValueError: If the function does not exist.
    """
    path = SCRIPTS / f"{module.replace('.', '/')}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return inspect.Signature(list(_parameters(node.args))), ast.get_docstring(node) or ""
    raise ValueError(f"Expected a function {function} in {path}.")


def deferred(module: str, function: str) -> Callable[..., None]:
    """A function with the signature and docstring of another, which imports that one when it is called.

    What `early_checks` knows about its arguments is checked before that.

    Args:
        module: Module below `scripts`.
        function: Name of the function at its top level.

    Raises:
        ValueError: If the function does not exist.
    """
    signature, doc = described(module, function)

    check = CHECKS.get((module, function))

    def run(*args: Any, **kwargs: Any) -> None:
        if check is not None:
            check(**signature.bind(*args, **kwargs).arguments)
        with interrupted_at_once():
            imported = importlib.import_module(f"scripts.{module}")
        getattr(imported, function)(*args, **kwargs)

    run.__name__, run.__doc__, run.__signature__ = function, doc, signature  # type: ignore[attr-defined]
    return run


def command_line(module: str, function: str, words: Sequence[str] | None = None, name: str | None = None) -> None:
    """Run a function on the words of the command line.

    Args:
        module: Module below `scripts`.
        function: Name of the function at its top level.
        words: Words after the command; by default those of this process.
        name: What usage and help call the command; by default the name of the program.

    Raises:
        SystemExit: If an option is wrong, or the function ends in an error about its input.
    """
    run_typed(deferred(module, function), words, name)


def run_typed(function: Callable[..., None], words: Sequence[str] | None = None, name: str | None = None) -> None:
    """Run a function on the words of the command line, its text parameters as typed.

    Args:
        function: Text parameters are those whose type names ``str``; its annotations must be texts themselves
            (``from __future__ import annotations``).
        words: Words after the command; by default those of this process.
        name: What usage and help call the command; by default the name of the program.

    Raises:
        SystemExit: If an option is wrong, or the function ends in an error about its input.
    """
    escape_output()
    words = list(sys.argv[1:] if words is None else words)
    # Fire would pass the flag on to a function that takes any option.
    wants_help = {"-h", "--help"} & {key for key, _ in split_words(words)}
    try:
        fire.Fire(function, ["--", "--help"] if wants_help else _literal_words(function, words), name)
    except INPUT_ERRORS as error:
        if os.environ.get(SHOW_TRACEBACK):
            raise
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        end_interrupted()


def _literal_words(function: Callable[..., None], words: Sequence[str]) -> list[str]:
    """Turn each text into a Python literal, which Fire reads back as exactly that text.

    Fire has decorators for this, but lists them in its help as if they were commands.
    """
    signature = list(inspect.signature(function).parameters.values())
    parameters = [entry for entry in signature if entry.kind != _KINDS.VAR_KEYWORD]
    readers = {entry.name: _reader(str(entry.annotation)) for entry in parameters if _is_text(str(entry.annotation))}
    found = [(_full_name(key, parameters), key, text) for key, text in split_words(words)]
    _check(found, signature)
    given = {name for name, _, _ in found}
    order = [entry.name for entry in parameters if entry.kind == _KINDS.POSITIONAL_OR_KEYWORD]
    places = iter([name for name in order if name not in given])
    rest = next((entry.name for entry in parameters if entry.kind == _KINDS.VAR_POSITIONAL), "")
    kinds = {entry.name: str(entry.annotation) for entry in parameters}
    further = next((str(entry.annotation) for entry in signature if entry.kind == _KINDS.VAR_KEYWORD), "")
    literal: list[str] = []
    for option, key, text in found:
        name = option if key else next(places, rest)
        if text is None and name in readers:
            sys.exit(f"Error: Expected a value for {key}, got none.")
        _check_empty(key or name.upper(), text, signature, name)
        _check_value(key or name.upper(), text, kinds.get(name, further))
        literal += [f"--{name}"] if key and name in order else [key] if key else []
        literal += [] if text is None else [repr(readers[name](text)) if name in readers else text]
    return [*literal, *words[len(words) - words[::-1].index("--") - 1 :]] if "--" in words else literal


def _check(found: Sequence[tuple[str, str, str | None]], parameters: Sequence[inspect.Parameter]) -> None:
    """Reject arguments that the function does not take: Fire would run it first and complain afterwards."""
    kinds = {entry.kind for entry in parameters}
    names = [entry.name for entry in parameters if entry.kind in (_KINDS.POSITIONAL_OR_KEYWORD, _KINDS.KEYWORD_ONLY)]
    known = {*names, *(f"no{name}" for name in names)}
    unknown = [key for name, key, _ in found if key and name not in known]
    if unknown and _KINDS.VAR_KEYWORD not in kinds:
        sys.exit(f"Error: Expected options among {', '.join(f'--{name}' for name in names)}, got {unknown[0]}.")
    given = {name for name, _, _ in found}
    free = [entry for entry in parameters if entry.kind == _KINDS.POSITIONAL_OR_KEYWORD and entry.name not in given]
    bare = [text for _, key, text in found if not key]
    if len(bare) > len(free) and _KINDS.VAR_POSITIONAL not in kinds:
        sys.exit(f"Error: Expected at most {len(free)} words without an option, got also {bare[len(free)]!r}.")
    required = [entry.name.upper() for entry in free[len(bare) :] if entry.default is _KINDS.empty]
    if required:
        sys.exit(f"Error: Expected {' and '.join(required)}, got none. --help describes the command.")


def _check_empty(shown: str, text: str | None, parameters: Sequence[inspect.Parameter], name: str) -> None:
    """Reject an empty text unless it is the default: an empty path would be the working folder."""
    default = next((entry.default for entry in parameters if entry.name == name), None)
    if text is not None and not text.strip() and default != "":
        sys.exit(f"Error: Expected a value for {shown}, got an empty text.")


def _check_value(name: str, text: str | None, annotation: str) -> None:
    """Reject a value that is not the number or the truth value that the function takes."""
    words, kinds = _VALUES.get(annotation.removesuffix(" | None"), ("", ()))
    if not words or text is None or (text == "None" and annotation.endswith(" | None")):
        return
    if type(DefaultParseValue(text)) not in kinds:
        sys.exit(f"Error: Expected {words} for {name}, got {text!r}.")


def _full_name(key: str, parameters: Sequence[inspect.Parameter]) -> str:
    """Name of the parameter behind an option. Fire accepts a single letter if only one parameter starts with it."""
    name = key.lstrip("-").replace("-", "_")
    matches = [entry.name for entry in parameters if entry.name[:1] == name] if len(name) == 1 else []
    return matches[0] if len(matches) == 1 else name


def _is_text(annotation: str) -> bool:
    return re.search(r"\bstr\b", annotation) is not None


def _reader(annotation: str) -> Callable[[str], Any]:
    """How to read a text parameter of a type: lists and None only where the type allows them."""

    def read(text: str) -> Any:
        if text == "None" and "None" in annotation:
            return None
        value = as_typed(text)
        return value if isinstance(value, str) or "Sequence" in annotation else text

    return read
