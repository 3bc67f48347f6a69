"""Laws of instances: every field follows its boxes, whatever it is called, for numpy and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from scripts import instances as ins
from scripts.boxes import Affine

HEIGHT, WIDTH = 40, 60
CELLS = 28
KINDS = pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])


def some(make: Any, count: int = 5, seed: int = 0) -> dict[str, Any]:
    """Boxes in the image with a field of every kind; row i of ``age`` is i."""
    generator = np.random.default_rng(seed)
    low = generator.uniform(0, 20, (count, 2))
    fields = {
        "boxes": np.concatenate([low, low + generator.uniform(2, 18, (count, 2))], axis=1),
        "labels": np.ones(count, dtype=np.int64),
        "age": np.arange(count, dtype=np.float64),
        "tags": generator.uniform(0, 1, (count, 3)).astype(np.float32),
        "noisy": generator.uniform(0, 1, count) < 0.5,
        "masks": generator.uniform(0, 1, (count, CELLS, CELLS)),
        "recist": generator.uniform(0, 40, (count, 4, 2)),
        "diameters": generator.uniform(1, 9, (count, 2)),
    }
    return {name: make(values) for name, values in fields.items()}


def same(found: dict[str, Any], wanted: dict[str, Any], atol: float = 1e-9) -> None:
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert type(found[name]) is type(wanted[name]), name
        assert found[name].dtype == wanted[name].dtype, name
        np.testing.assert_allclose(np.asarray(found[name]), np.asarray(wanted[name]), atol=atol, err_msg=name)


@KINDS
@pytest.mark.parametrize("rows", [[3, 0], [], slice(1, 4), np.array([True, False, False, True, False])])
def test_selected_fields_stay_with_their_boxes(make: Any, rows: Any) -> None:
    given = some(make)
    found = ins.select(given, make(rows) if isinstance(rows, np.ndarray) else rows)
    ages = np.arange(5.0)[rows] if len(np.arange(5.0)[rows]) else np.zeros(0)
    assert found["age"].tolist() == ages.tolist()
    assert ins.num_instances(found) == len(ages)
    np.testing.assert_array_equal(found["masks"], np.asarray(given["masks"])[ages.astype(int)])


@KINDS
def test_parts_join_to_the_whole(make: Any) -> None:
    given = some(make)
    same(ins.cat([ins.select(given, slice(2)), ins.select(given, slice(0)), ins.select(given, slice(2, None))]), given)


@KINDS
def test_parts_of_other_fields_do_not_join(make: Any) -> None:
    given = some(make)
    with pytest.raises(ValueError, match=r"every part, got \['boxes'\] in part 1"):
        ins.cat([given, {"boxes": given["boxes"]}])
    with pytest.raises(ValueError, match="at least one part"):
        ins.cat([])


@KINDS
@pytest.mark.parametrize("by", [Affine(-1, 1, WIDTH, 0), Affine(1, -1, 0, HEIGHT), Affine(-1, -1, WIDTH, HEIGHT)])
def test_two_flips_are_none_and_touch_no_argument(make: Any, by: Affine) -> None:
    given = some(make)
    once = ins.move(given, by)
    same(given, some(make))
    assert not np.allclose(np.asarray(once["masks"]), np.asarray(given["masks"]))
    same(ins.move(once, by), given)


@KINDS
@pytest.mark.parametrize("count", [0, 3])
def test_there_and_back_is_none(make: Any, count: int) -> None:
    given = some(make, count)
    same(ins.move(ins.move(given, Affine(2.0, 0.5, 3.0, -4.0)), Affine(0.5, 2.0, -1.5, 8.0)), given)


def paint(instances: dict[str, Any]) -> np.ndarray:
    """The image of masks over boxes that are whole multiples of the grid."""
    image = np.zeros((HEIGHT, WIDTH))
    for (x1, y1, x2, y2), mask in zip(np.asarray(instances["boxes"]).astype(int), instances["masks"], strict=True):
        image[y1:y2, x1:x2] = np.kron(np.asarray(mask), np.ones(((y2 - y1) // 4, (x2 - x1) // 4)))
    return image


@KINDS
def test_masks_flip_with_the_pixels_they_cover(make: Any) -> None:
    masks = np.random.default_rng(0).uniform(size=(2, 4, 4))
    given = {"boxes": make(np.array([[4.0, 8.0, 12.0, 20.0], [20.0, 3.0, 40.0, 11.0]])), "masks": make(masks)}
    np.testing.assert_array_equal(paint(ins.move(given, Affine(-1, 1, WIDTH, 0))), paint(given)[:, ::-1])
    np.testing.assert_array_equal(paint(ins.move(given, Affine(1, -1, 0, HEIGHT))), paint(given)[::-1])


@KINDS
def test_masks_and_other_fields_scale_as_they_should(make: Any) -> None:
    given = some(make)
    found = ins.move(given, Affine(2.0, 3.0))
    unchanged = set(given) - {"boxes", "recist", "diameters"}
    same({name: found[name] for name in unchanged}, {name: given[name] for name in unchanged})
    np.testing.assert_allclose(found["recist"][..., 1], np.asarray(given["recist"])[..., 1] * 3)
    np.testing.assert_allclose(found["diameters"], np.asarray(given["diameters"]) * 6**0.5)


@KINDS
@pytest.mark.parametrize("kind", [np.float64, bool])
def test_a_clipped_box_keeps_the_part_of_its_mask_that_is_left(make: Any, kind: type) -> None:
    # The left half of the box is off the image; the mask is set in the right half of what is left.
    mask = np.zeros((1, CELLS, CELLS))
    mask[:, :, 3 * CELLS // 4 :] = 1
    given = {"boxes": make(np.array([[-20.0, 0.0, 20.0, 10.0]])), "masks": make(mask.astype(kind)), "age": make([4])}
    found = ins.clip(given, HEIGHT, WIDTH)
    assert found["boxes"].tolist() == [[0, 0, 20, 10]]
    assert found["age"].tolist() == [4]
    assert found["masks"].dtype == given["masks"].dtype
    columns = np.asarray(found["masks"][0]).astype(float).mean(axis=0)
    assert columns[: CELLS // 2 - 1].max() == 0
    assert columns[CELLS // 2 + 1 :].min() == 1


@KINDS
@pytest.mark.parametrize("count", [0, 5])
def test_clipping_what_lies_inside_changes_nothing(make: Any, count: int) -> None:
    given = some(make, count)
    same(ins.clip(given, HEIGHT, WIDTH), given)


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"boxes": torch.ones(2, 4)}, "x1 < x2.*slab 3"),
        ({"age": torch.ones(3)}, r"age as an array with one row for each of 2 boxes, got shape \(3,\) in slab 3"),
        ({"age": torch.tensor(1.0)}, r"got shape \(\) in slab 3"),
        ({"age": [1, 2]}, "got list in slab 3"),
        ({"boxes": [[1, 2, 3, 4]] * 2}, "Expected an array or tensor 'boxes'"),
    ],
)
def test_check_names_the_field_that_does_not_fit(spoilt: dict[str, Any], message: str) -> None:
    good = {"boxes": torch.tensor([[1.0, 2, 3, 4], [2, 3, 4, 5]]), "age": torch.ones(2)}
    ins.check(good, "slab 3")
    with pytest.raises(ValueError, match=message):
        ins.check({**good, **spoilt}, "slab 3")


def test_arrays_become_plain_tensors_and_tensors_arrays_of_numpys_types() -> None:
    given = some(np.asarray)
    tensors = ins.to(given, "cpu")
    assert {name: values.numpy().dtype for name, values in tensors.items()} == {n: v.dtype for n, v in given.items()}
    tensors["age"] += 1
    assert given["age"].tolist() == [0, 1, 2, 3, 4]
    arrays = ins.to_arrays({"boxes": torch.ones(1, 4, dtype=torch.bfloat16), "labels": torch.ones(1).int()})
    assert (arrays["boxes"].dtype, arrays["labels"].dtype) == (np.float64, np.int32)
    assert ins.further({"boxes": 1, "scores": 2, "labels": 3, "tags": 4}) == {"tags": 4}  # type: ignore[type-var]
