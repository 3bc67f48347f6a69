"""Which result a review is of: named by a SHA-256, with rising numbers of lesions, and known in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts.inference.outputs.lesions_document import result_sha256
from scripts.workflows.delivery.review_origin import ReviewOrigin, differing_result, read_origin

A, B, C = "a" * 64, "b" * 64, "c" * 64


def read(folder: Path, *numbers: object, **content: Any) -> ReviewOrigin:
    path = folder / "r.json"
    path.write_text(json.dumps({"result_sha256": A, "lesions": [{"lesion": one} for one in numbers], **content}))
    return read_origin(path)


def test_the_first_result_is_the_reviewed_one_or_the_one_that_it_names(tmp_path: Path) -> None:
    assert read(tmp_path, 1, 2) == ReviewOrigin(A, A, (1, 2))
    assert read(tmp_path, 2, 7, settings={"first_result_sha256": B}) == ReviewOrigin(A, B, (2, 7))


@pytest.mark.parametrize("digest", [None, 0, "0", A[1:], A + "a", A.upper(), "g" * 64, A + "\n"])
def test_what_is_no_sha256_is_rejected(digest: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected a SHA-256 of 64 .* as result_sha256 of .*r\.json"):
        read(tmp_path, result_sha256=digest)
    if digest is not None:
        with pytest.raises(ValueError, match=r"Expected a SHA-256 of 64 .* as settings\.first_result_sha256 of"):
            read(tmp_path, settings={"first_result_sha256": digest})


@pytest.mark.parametrize("numbers", [(0,), (1, 1), (2, 1), (True,), (None,), ("1",), (1.0,)])
def test_numbers_that_do_not_rise_are_rejected(numbers: tuple[object, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected rising numbers of lesions from 1, got .* in entry \d of"):
        read(tmp_path, *numbers)


def test_the_result_of_a_folder_is_known_by_its_own_hash_and_by_its_first(tmp_path: Path) -> None:
    document: dict[str, Any] = {"input": {"sha256": C}, "settings": {}, "lesions": []}
    own = result_sha256(document)
    path = tmp_path / "lesions.json"
    origin = ReviewOrigin(A, A, (1,))
    assert differing_result(origin, C, tmp_path) is None  # no result
    for text in ("[]", "no JSON", '{"input": {}}'):
        path.write_text(text)
        assert differing_result(origin, C, tmp_path) is None
    path.write_text(json.dumps({**document, "timing_s": {"read": 1}}))
    assert differing_result(origin, C, tmp_path) == own
    assert differing_result(origin, B, tmp_path) is None  # of another scan
    assert differing_result(ReviewOrigin(own, A, (1,)), C, tmp_path) is None
    path.write_text(json.dumps({**document, "settings": {"first_result_sha256": A}}))
    assert differing_result(origin, C, tmp_path) is None
