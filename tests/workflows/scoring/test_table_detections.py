"""Tables of detections: an invalid row, and boxes given in two ways, are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.workflows.scoring.table_detections import table_detections


def test_columns_are_found_in_any_case_and_order(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("Score,Y2,X2,Y1,X1,Label,File_Name,width,height\n0.5,4,3,2,1,node,a.png,512,512\n")
    assert table_detections(tmp_path / "r.csv") == [("a.png", "node", [1.0, 2.0, 3.0, 4.0], 0.5, 2)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("image,x1,y1,x2,y2\na,1,2,3,4\n", "the columns image, x1, y1, x2, y2, score"),
        ("image,x1,y1,x2,y2,score\na,1,2,3,4,high\n", "a box and a score, got others in line 2"),
        ("image,x1,y1,x2,y2,score\na,1,2,3,1_0,0.5\n", "a box and a score, got others in line 2"),
        ("image,x1,y1,x2,y2,w,h,score\na,1,2,3,4,2,2,1\n", "boxes as x1, y1, x2, y2 alone, got w, h as well"),
        ("image,X,Y,Width,Height,x1,y1,x2,y2,score\na,1,2,2,2,1,2,3,4,1\n", "alone, got x, y, width, height as well"),
    ],
)
def test_tables_that_cannot_be(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(ValueError, match=what) as raised:
        table_detections(tmp_path / "r.csv")
    assert "r.csv" in str(raised.value)
