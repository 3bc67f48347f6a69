"""Command lines that answer ``--help`` and wrong options at once: PyTorch and MONAI take seconds to import.

Each command-line module at the top of `scripts` names a function of another module. Its signature and docstring are
read from the source; the module itself is imported only when the function is called.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fire

SCRIPTS = Path(__file__).resolve().parent
# Errors that say what is wrong with the input; the user needs no traceback for them.
INPUT_ERRORS = (ValueError, OSError, ImportError)


def _parameters(arguments: ast.arguments) -> Iterator[inspect.Parameter]:
    """Parameters of a function's syntax tree; defaults must be plain values."""
    kinds = inspect.Parameter
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    groups = [(kinds.POSITIONAL_OR_KEYWORD, zip(positional, defaults, strict=True))]
    keyword_only = (kinds.KEYWORD_ONLY, zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    for kind, group in [*groups, *([(kinds.VAR_POSITIONAL, [(arguments.vararg, None)])] if arguments.vararg else [])]:
        yield from (_parameter(argument, kind, default) for argument, default in group)
    yield from (_parameter(argument, keyword_only[0], default) for argument, default in keyword_only[1])
    if arguments.kwarg:
        yield _parameter(arguments.kwarg, kinds.VAR_KEYWORD, None)


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None) -> inspect.Parameter:
    value = inspect.Parameter.empty if default is None else ast.literal_eval(default)
    annotation = ast.unparse(argument.annotation) if argument.annotation else inspect.Parameter.empty
    return inspect.Parameter(argument.arg, kind, default=value, annotation=annotation)


def described(module: str, function: str) -> tuple[inspect.Signature, str]:
    """Signature and docstring of a function, read from its source without importing it.

    Args:
        module: Module below `scripts`, such as ``workflows.detector_export``.
        function: Name of the function at its top level.

    Raises:
        ValueError: If there is no such function.
    """
    path = SCRIPTS / f"{module.replace('.', '/')}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return inspect.Signature(list(_parameters(node.args))), ast.get_docstring(node) or ""
    raise ValueError(f"Expected a function {function} in {path}.")


def deferred(module: str, function: str) -> Callable[..., None]:
    """A function with the signature and docstring of another, which imports that one when it is called.

    Args:
        module: Module below `scripts`.
        function: Name of the function at its top level.

    Raises:
        ValueError: If there is no such function.
    """
    signature, doc = described(module, function)

    def run(*args: Any, **kwargs: Any) -> None:
        try:
            getattr(importlib.import_module(f"scripts.{module}"), function)(*args, **kwargs)
        except INPUT_ERRORS as error:
            sys.exit(f"Error: {error}")

    run.__name__, run.__doc__, run.__signature__ = function, doc, signature  # type: ignore[attr-defined]
    return run


def command_line(module: str, function: str) -> None:
    """Run a function on the words of the command line.

    Args:
        module: Module below `scripts`.
        function: Name of the function at its top level.
    """
    fire.Fire(deferred(module, function))
