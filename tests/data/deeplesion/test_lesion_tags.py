"""Tags of lesions from the file that MULAN trains on, by the rows of DL_info.csv."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.data.deeplesion.lesion_tags import LesionTags
from support.fake_ontology import write_ontology

CONTENT = {
    "term_list": ["lung", "nodule", "liver"],
    "train_lesion_idxs": [0, 4],
    "train_relevant_labels": [[0, 1], []],
    "train_uncertain_labels": [[2], [1]],
    "train_irrelevant_labels": [[], [0]],
    "val_lesion_idxs": [2],
    "val_relevant_labels": [[2]],
    "val_uncertain_labels": [[]],
    "test_lesion_idxs": [],
    "test_relevant_labels": [],
    "test_uncertain_labels": [],
}


def write(folder: Path, **changes: Any) -> LesionTags:
    path = folder / "tags.json"
    path.write_text(json.dumps({**CONTENT, **changes}))
    return LesionTags(path)


def tags_of(tags: LesionTags, row: int) -> list[int]:
    return tags({}, row, np.zeros(4), "")["tags"].tolist()


def test_tags_are_yes_no_or_unknown(tmp_path: Path) -> None:
    tags = write(tmp_path)
    assert tags.names == ("lung", "nodule", "liver")
    assert [tags_of(tags, row) for row in (0, 4, 2)] == [[1, 1, -1], [0, -1, 0], [0, 0, 1]]
    # Nothing is known of a lesion that the file does not have.
    assert tags_of(tags, 1) == [-1, -1, -1]
    assert tags.empty["tags"].shape == (0, 3)


def test_rare_tags_weigh_more_where_a_lesion_has_them(tmp_path: Path) -> None:
    tags = write(
        tmp_path,
        train_lesion_idxs=list(range(10, 18)),
        train_relevant_labels=[[0, 1], [0], [0], [0], [0], [0], [], []],
        train_uncertain_labels=[[] for _ in range(8)],
    )
    # Of 8 lesions 6 have the first tag, 1 the second and none the third.
    weights = tags({}, 10, np.zeros(4), "")["tag_weights"]
    np.testing.assert_allclose(weights, [8 / 12, 4.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(tags({}, 17, np.zeros(4), "")["tag_weights"], [2.0, 8 / 14, 0.5], rtol=1e-6)
    assert tags({}, 2, np.zeros(4), "")["tag_weights"][2] == 4.0  # of the validation, with a tag that no other has


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"term_list": []}, "Expected the names of tags as a list term_list"),
        ({"train_relevant_labels": [[0]]}, "a list for each as train_relevant_labels"),
        ({"train_relevant_labels": [[3], []]}, r"numbers of tags below 3 for lesion 0, got \[3\]"),
        ({"val_lesion_idxs": [4]}, "for lesion 4, got a second entry"),
        ({"val_lesion_idxs": [-1]}, "Expected rows as val_lesion_idxs"),
        ({"train_uncertain_labels": "none"}, "train_uncertain_labels"),
    ],
)
def test_other_files_are_rejected_by_what_is_amiss(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tags_of(write(tmp_path, **changes), 0)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tags of lesions at .*none\.json"):
        tags_of(LesionTags(tmp_path / "none.json"), 0)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match=r"tags of lesions as JSON, got something else in .*bad\.json"):
        tags_of(LesionTags(tmp_path / "bad.json"), 0)


def test_an_ontology_next_to_the_file_says_what_is_excluded(tmp_path: Path) -> None:
    assert "tag_exclusions" not in write(tmp_path)({}, 0, np.zeros(4), "")
    write_ontology(tmp_path / "lesion_ontology_181022.xlsx", [("lung", "liver", ""), ("nodule", "", "lung")])
    tags = write(tmp_path)
    assert tags.empty["tag_exclusions"].shape == (0, 3)
    excluded = {row: tags({}, row, np.zeros(4), "")["tag_exclusions"].tolist() for row in (0, 2, 4, 9)}
    nothing = [False, False, False]
    assert excluded == {0: [False, False, True], 2: nothing, 4: nothing, 9: nothing}
    write_ontology(tmp_path / "lesion_ontology_2.xlsx", [("lung", "", "")])
    with pytest.raises(ValueError, match="one ontology of the tags"):
        _ = write(tmp_path).empty
