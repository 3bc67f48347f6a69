"""The errors of pydicom for content that it did not expect."""

from __future__ import annotations

from struct import error as StructError

from pydicom.errors import BytesLengthException, InvalidDicomError

# When a file is read or, as values are converted on access, when an element is asked for.
ODD_CONTENT = (
    InvalidDicomError,
    BytesLengthException,
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    MemoryError,
    StructError,
)
