"""Notes on how an input was understood: what goes into results tells no names of files, what goes into the log does."""

from __future__ import annotations


class Note(str):
    """A sentence for results, with its form for the log.

    Results travel further than the machine they were made on, and files of DICOM are often named by the patient.

    Args:
        text: The sentence without names of files and values of patients.
        log: The same with them.
    """

    log: str

    def __new__(cls, text: str, log: str) -> Note:
        """The note, which is its text."""
        note = super().__new__(cls, text)
        note.log = log
        return note


def log_text(note: str) -> str:
    """What the log says in place of a note; of a plain text the text."""
    return note.log if isinstance(note, Note) else note
