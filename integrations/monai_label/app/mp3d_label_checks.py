"""Checks of what clients send to MONAI Label: parameters as plain data, file names, and target paths of labels.

MONAI Label merges a client's parameters into its own request, where they may name another image, a folder to import
code from or a session. Bundles put their values into configs, where a text that begins with ``$`` is executed.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mp3d_label_guard import IMAGE_ID, TAG, Refusal

BAD_REQUEST, CONFLICT = 400, 409
DEPTH, TEXT, WHOLE = 5, 4096, 1 << 63
# Of a file name, in bytes; the longest extension and the name of a temporary file still fit.
NAME_BYTES = 240
# Set by the request or by MONAI Label; parameters of these names would replace them.
RESERVED = frozenset(
    {
        *("model", "image", "images", "image_path", "label", "file", "session", "method", "strategy", "output"),
        *("bundle_path", "description", "timeout", "skip_writer", "result_write_to_file"),
    }
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_ .-]{0,63}")
# Sent by clients; it is stored with labels and never reaches a config.
_CLIENT = ("client_id", "user")
# The folders of an absolute path in a text, but not of a URL; within quotes, as in errors of Python, also with blanks.
_FOLDERS = re.compile(
    r"(?<=')/(?:[^'/\n]+/)*(?=[^'/])|(?<=\")/(?:[^\"/\n]+/)*(?=[^\"/])|(?<![\w:/.])/(?:[^\s/]+/)*(?=[^\s/])"
)
# Tag of the labels that a training reads, as users submit them.
FINAL = "final"
_FITTING: dict[str, str] = {
    # Detections must not take the place of what users have submitted.
    "label_tag": rf"(?!{FINAL}$){TAG}",
    "gpus": r"all|[0-9]{1,3}(?:,[0-9]{1,3})*",
    "logging": r"(?i:debug|info|warning|error|critical)",
    "result_extension": r"\.[A-Za-z0-9]{1,8}(?:\.gz)?",
}
# Whole numbers that MONAI Label compares without a look.
_COUNTS = ("max_batch_size", "max_workers")
# Likewise true or false, for which its documentation has texts: there any text would be true.
_FLAGS = ("save_label", "multi_gpu")


def read_params(text: str | None) -> dict[str, Any]:
    """Parameters from the text of a form field.

    Raises:
        Refusal: If they are not a JSON object; see `check_params` for its content.
    """
    return check_params(_read_object(text, "params"))


def read_info(text: str | None) -> dict[str, Any]:
    """A client's information about a submitted label: stored, never used.

    Raises:
        Refusal: If it is not a JSON object, or nested too deeply.
    """
    info = _read_object(text, "params")
    _check_value(info, "params", _any_text)
    return info


def _read_object(text: str | None, what: str) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:  # not JSON, too many digits, nested too deeply
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise Refusal(BAD_REQUEST, f"Expected {what} as a JSON object, cannot read them: {reason}.") from error
    if not isinstance(content, dict):
        raise Refusal(BAD_REQUEST, f"Expected {what} as a JSON object, got {type(content).__name__}.")
    return content


def check_params(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check parameters: names that are parameters, values that are plain data.

    Returns:
        The parameters; texts for true and false as such.

    Raises:
        Refusal: Naming the first invalid one.
    """
    checked = dict(params or {})
    for name, value in checked.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED:
            raise Refusal(BAD_REQUEST, f"Expected names of parameters, got {str(name)[:100]!r}.")
        if name in _FITTING and not (isinstance(value, str) and re.fullmatch(_FITTING[name], value)):
            raise Refusal(BAD_REQUEST, f"Expected a {name} that this app knows, got {str(value)[:100]!r}.")
        _check_value(value, name, _any_text if name in _CLIENT else _plain_text)
        if name in _COUNTS and not (type(value) is int and value >= 0):
            raise Refusal(BAD_REQUEST, f"Expected {name} to be a whole number from 0, got {str(value)[:100]!r}.")
        if name in _FLAGS and value is not None:
            checked[name] = {"true": True, "false": False}.get(str(value).strip().lower())
            if checked[name] is None:
                raise Refusal(BAD_REQUEST, f"Expected {name} to be true or false, got {str(value)[:100]!r}.")
    return checked


def check_spelling(params: Iterable[str], known: Iterable[str]) -> None:
    """Reject a name that is almost that of a parameter: its value would be ignored. Viewers send names of their own.

    Raises:
        Refusal: Naming the first one, and the parameter that is meant.
    """
    names = sorted(known)
    for name in params:
        if name not in names and (meant := difflib.get_close_matches(name, names, n=1, cutoff=0.85)):
            raise Refusal(BAD_REQUEST, f"Expected a known parameter, got {name!r}. Is {meant[0]} meant?")


def _any_text(text: str) -> bool:
    """Whether a text fits into a file: half of a surrogate pair would make MONAI Label's list unreadable."""
    return len(text) <= TEXT and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _plain_text(text: str) -> bool:
    """Whether a text is plain in a MONAI config: not an expression, a reference or a macro."""
    return _any_text(text) and not text.lstrip().startswith("$") and "@" not in text and "%" not in text


def _check_value(value: Any, name: str, fits: Callable[[str], bool], depth: int = 0) -> None:
    good = depth <= DEPTH
    if isinstance(value, str):
        good &= fits(value)
    elif isinstance(value, (int, float)):
        # JSON has neither NaN nor infinity: an answer with one could not be written.
        good &= math.isfinite(value) if isinstance(value, float) else abs(value) < WHOLE
    elif isinstance(value, Mapping):
        # ``_target_`` and similar keys create objects.
        good &= all(isinstance(key, str) and _any_text(key) and not key.startswith(("_", "$")) for key in value)
    elif value is not None:
        good &= isinstance(value, list)
    if not good:
        raise Refusal(BAD_REQUEST, f"Expected plain values as {name}, got {str(value)[:100]!r}.")
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_value(item, name, fits, depth + 1)


def upload_suffix(name: str | None, endings: Sequence[str], default: str) -> str:
    """The extension of a file that a client sends; the rest of its name is not used.

    Args:
        name: Name from the client, possibly a path.
        endings: Allowed extensions, longest first.
        default: For a file without a name.

    Raises:
        Refusal: If it has another.
    """
    if not name:
        return default
    for ending in sorted(endings, key=len, reverse=True):
        if name.lower().endswith(ending):
            return ending
    raise Refusal(BAD_REQUEST, f"Expected a file ending in {', '.join(endings)}, got {name[-100:]!r}.")


def plain_file_name(name: str | None) -> str:
    """The last part of a file name from a client, with slashes of either kind.

    Raises:
        Refusal: If it is not a file name.
    """
    last = re.split(r"[/\\]", name or "")[-1]
    if not re.fullmatch(IMAGE_ID, last):
        raise Refusal(BAD_REQUEST, f"Expected the name of a file, got {(name or '')[-100:]!r}.")
    _check_length(last)
    return last


def _check_length(name: str) -> None:
    size = len(os.fsencode(name))
    if size > NAME_BYTES:
        raise Refusal(BAD_REQUEST, f"Expected a name of at most {NAME_BYTES} bytes, got {size}: {name[:50]!r}...")


def check_target(path: str | Path, folder: str | Path, *, new: bool) -> None:
    """Check the target path of a file.

    Args:
        path: The file.
        folder: Folder of the scans.
        new: Whether it must not exist yet.

    Raises:
        Refusal: If its name is too long, links lead out of the folder, or the file exists but must be new.
    """
    path = Path(path)
    _check_length(path.name)
    if not path.resolve().is_relative_to(Path(folder).resolve()) or path.is_symlink():
        raise Refusal(BAD_REQUEST, f"Expected a file in the folder of the scans, but {path.name} leads out of it.")
    if new and path.exists():
        raise Refusal(CONFLICT, f"Expected an unused id: {path.name} exists, and scans are not replaced.")


def without_folders(text: str) -> str:
    """A message with the names of files alone, as paths of the server must not be disclosed."""
    return _FOLDERS.sub("", text)
