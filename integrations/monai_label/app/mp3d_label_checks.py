"""What a client may send to MONAI Label: parameters as plain data, names of files, and where labels may be written.

MONAI Label merges a client's parameters into its own request, where they may name another image, a folder to import
code from or a session, and bundles take their values into configs, where a text that begins with ``$`` is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mp3d_label_guard import IMAGE_ID, TAG, Refusal

BAD_REQUEST, CONFLICT = 400, 409
DEPTH, TEXT, WHOLE = 5, 4096, 1 << 63
# Set by the request itself or by MONAI Label; as parameters they would take their place.
RESERVED = frozenset(
    {
        *("model", "image", "images", "image_path", "label", "file", "session", "method", "strategy", "output"),
        *("bundle_path", "description", "timeout", "skip_writer", "result_write_to_file"),
    }
)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_ .-]{0,63}")
# Of a client; it is kept with labels and reaches no config.
_CLIENT = ("client_id", "user")
_FITTING: dict[str, str] = {
    "label_tag": TAG,
    "gpus": r"all|[0-9]{1,3}(?:,[0-9]{1,3})*",
    "logging": r"(?i:debug|info|warning|error|critical)",
    "result_extension": r"\.[A-Za-z0-9]{1,8}(?:\.gz)?",
}


def read_params(text: str | None) -> dict[str, Any]:
    """Parameters that came as the text of a form's field.

    Raises:
        Refusal: If they are no JSON object; see `check_params` for what is in it.
    """
    return check_params(_read_object(text, "params"))


def read_info(text: str | None) -> dict[str, Any]:
    """What a client says of a label that it submits: kept, never used.

    Raises:
        Refusal: If it is no JSON object, or nested too deeply.
    """
    info = _read_object(text, "params")
    _check_value(info, "params", _any_text)
    return info


def _read_object(text: str | None, what: str) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:  # no JSON, digits without end, nested without end
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise Refusal(BAD_REQUEST, f"Expected {what} as a JSON object, cannot read them: {reason}.") from error
    if not isinstance(content, dict):
        raise Refusal(BAD_REQUEST, f"Expected {what} as a JSON object, got {type(content).__name__}.")
    return content


def check_params(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check parameters: names that are parameters, values that are plain data.

    Returns:
        The parameters.

    Raises:
        Refusal: Naming the first that cannot be.
    """
    for name, value in (params or {}).items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED:
            raise Refusal(BAD_REQUEST, f"Expected names of parameters, got {str(name)[:100]!r}.")
        if name in _FITTING and not (isinstance(value, str) and re.fullmatch(_FITTING[name], value)):
            raise Refusal(BAD_REQUEST, f"Expected a {name} that this app knows, got {str(value)[:100]!r}.")
        _check_value(value, name, _any_text if name in _CLIENT else _plain_text)
    return dict(params or {})


def _any_text(text: str) -> bool:
    return len(text) <= TEXT


def _plain_text(text: str) -> bool:
    """Whether a text means nothing to a config of MONAI: no expression, no reference, no macro."""
    return len(text) <= TEXT and not text.lstrip().startswith("$") and "@" not in text and "%" not in text


def _check_value(value: Any, name: str, fits: Callable[[str], bool], depth: int = 0) -> None:
    good = depth <= DEPTH
    if isinstance(value, str):
        good &= fits(value)
    elif isinstance(value, (int, float)):
        good &= isinstance(value, float) or abs(value) < WHOLE
    elif isinstance(value, Mapping):
        # ``_target_`` and its like make objects of what a config says.
        good &= all(isinstance(key, str) and len(key) <= TEXT and not key.startswith(("_", "$")) for key in value)
    elif value is not None:
        good &= isinstance(value, list)
    if not good:
        raise Refusal(BAD_REQUEST, f"Expected plain values as {name}, got {str(value)[:100]!r}.")
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_value(item, name, fits, depth + 1)


def upload_suffix(name: str | None, endings: Sequence[str], default: str) -> str:
    """The ending of a file that a client sends; all that is taken of its name.

    Args:
        name: As the client calls it, possibly a path.
        endings: Those that may be, longest first.
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
    """The last part of a file's name as a client sends it, of either kind of path.

    Raises:
        Refusal: If it is no name of a file.
    """
    last = re.split(r"[/\\]", name or "")[-1]
    if not re.fullmatch(IMAGE_ID, last):
        raise Refusal(BAD_REQUEST, f"Expected the name of a file, got {(name or '')[-100:]!r}.")
    return last


def check_target(path: str | Path, folder: str | Path, *, new: bool) -> None:
    """Check where a file will be written.

    Args:
        path: The file.
        folder: Folder of the scans.
        new: Whether it must not be there yet.

    Raises:
        Refusal: If links lead out of the folder, or the file is there and must not be.
    """
    path = Path(path)
    if not path.resolve().is_relative_to(Path(folder).resolve()) or path.is_symlink():
        raise Refusal(BAD_REQUEST, f"Expected a file in the folder of the scans, but {path.name} leads out of it.")
    if new and path.exists():
        raise Refusal(CONFLICT, f"Expected an id that is not taken: {path.name} is there, and scans are not replaced.")
