"""The place of a lesion in each scan: names of the archive where they are known, nothing otherwise."""

from __future__ import annotations

from typing import Any

from scripts.workflows.comparing.lesion_places import PLACE_COLUMNS, place_of

DOCUMENT: dict[str, Any] = {
    "input": {"dicom": {"series_instance_uid": "1.2", "study_date": "20260102", "accession_number": "7"}},
    "lesions": [
        {
            "lesion": 3,
            "key_point_lps_mm": [1, 2, -3.456],
            "image": {"instance_number": 60, "sop_instance_uid": "1.2.3"},
        },
    ],
}


def test_a_lesion_has_its_image_series_and_height() -> None:
    assert place_of(DOCUMENT, 3, "before") == {
        "z_before_mm": -3.46,
        "instance_number_before": 60,
        "sop_instance_uid_before": "1.2.3",
        "frame_number_before": None,
        "series_instance_uid_before": "1.2",
        "study_date_before": "20260102",
    }
    assert (*place_of(DOCUMENT, 3, "before"), *place_of(DOCUMENT, 3, "after")) == PLACE_COLUMNS


def test_what_is_not_known_is_none() -> None:
    found = place_of(DOCUMENT, None, "after")
    assert (found["series_instance_uid_after"], found["instance_number_after"], found["z_after_mm"]) == (
        *("1.2", None, None),
    )
    plain = {"input": {}, "lesions": [{"lesion": 1, "key_point_lps_mm": [0, 0, 5]}]}
    assert [value for value in place_of(plain, 1, "after").values() if value is not None] == [5.0]
