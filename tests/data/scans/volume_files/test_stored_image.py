"""Notes have a form for results and one for the log."""

from __future__ import annotations

import json

from scripts.data.scans.volume_files.stored_image import Note, log_text


def test_results_get_the_text_and_the_log_the_names() -> None:
    note = Note("Left out a file.", log="Left out DOE.dcm.")
    assert json.loads(json.dumps([note, "plain"])) == ["Left out a file.", "plain"]
    assert (f"{note}", log_text(note), log_text("plain")) == ("Left out a file.", "Left out DOE.dcm.", "plain")
