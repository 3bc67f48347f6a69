"""Laws of files and of words: what is written is what is read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scripts.configuration.typed_options import typed_options
from scripts.data.coco.colour_slabs import COLOURS
from scripts.data.slabs.z_lattice import LATTICES
from scripts.recipe import Recipe, read_recipe
from scripts.storage.safe_json import MAX_DEPTH, parse_json
from scripts.storage.safe_pickle import read_plain_pickle
from scripts.storage.torch_files import read_tensors

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
WHOLE = st.integers(-(2**63), 2**63 - 1)
FINITE = st.floats(allow_nan=False)
PLAIN = st.one_of(st.none(), st.booleans(), WHOLE, FINITE, TEXT)
NESTED = st.recursive(
    PLAIN, lambda below: st.one_of(st.lists(below, max_size=4), st.dictionaries(TEXT, below, max_size=4)), max_leaves=12
)
ARRAYS = st.builds(
    lambda seed, shape, kind: np.random.default_rng(seed).integers(0, 120, shape).astype(kind),
    st.integers(0, 99),
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from(["<f4", "<f8", ">i2", "u1", "<i8", "?"]),
)
LABELS = st.recursive(
    st.one_of(PLAIN, st.binary(max_size=12), ARRAYS),
    lambda below: st.one_of(
        st.lists(below, max_size=4), st.dictionaries(TEXT, below, max_size=4), st.tuples(below, below)
    ),
    max_leaves=10,
)


def check_same(found: Any, wanted: Any) -> None:
    """Equal in kind and value, all the way down."""
    if isinstance(wanted, np.ndarray):
        # numpy itself turns foreign byte orders into the machine's own.
        assert found.dtype.newbyteorder("=") == wanted.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found, wanted)
        return
    if isinstance(wanted, torch.Tensor):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)
        return
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            check_same(found[key], value)
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            check_same(one, other)
    else:
        assert found == wanted


@given(NESTED, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]), st.booleans())
def test_json_is_read_as_it_was_written(content: Any, encoding: str, escaped: bool) -> None:
    text = json.dumps({"content": content}, ensure_ascii=escaped)
    check_same(parse_json(text.encode(encoding)), {"content": content})


@given(TEXT, st.integers(1, 60), st.sampled_from(["[]", "{}"]))
def test_json_is_read_down_to_one_depth_whatever_brackets_its_texts_hold(text: str, depth: int, kind: str) -> None:
    content: Any = text + '[{]}\\"'
    for _ in range(depth):
        content = [content] if kind == "[]" else {'"[': content}
    data = json.dumps(content).encode()
    if depth <= MAX_DEPTH:
        check_same(parse_json(data), content)
    else:
        with pytest.raises(ValueError, match=f"nested {depth} deep"):
            parse_json(data)


@given(content=LABELS, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_pickles_are_read_as_they_were_written(content: Any, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "labels.pkl"
    path.write_bytes(pickle.dumps({"content": content}, protocol))
    check_same(read_plain_pickle(path), {"content": content})


@given(content=NESTED, seed=st.integers(0, 99))
def test_checkpoints_are_read_as_they_were_written(content: Any, seed: int, tmp_path: Path) -> None:
    tensors = {"a": torch.rand(2, 3, generator=torch.Generator().manual_seed(seed)), "b": torch.tensor([seed])}
    torch.save({"content": content, "tensors": tensors}, tmp_path / "last.pt")
    check_same(read_tensors(tmp_path / "last.pt"), {"content": content, "tensors": tensors})


WORD = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
# Values of an option: whatever does not look like another option.
VALUE = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda text: not text.startswith("-"))


@given(st.dictionaries(WORD, VALUE, max_size=4), st.data())
def test_options_are_taken_as_typed(options: dict[str, str], data: st.DataObject) -> None:
    words: list[str] = ["run", "train"]
    for name, text in options.items():
        written = name.replace("_", data.draw(st.sampled_from(["_", "-"])))
        together = data.draw(st.booleans())
        words += [f"--{written}={text}"] if together else [f"--{written}", text]
    assert typed_options(words) == options
    # What follows a lone "--" is for Fire itself.
    assert typed_options([*words, "--", "--verbose", "yes"]) == options


SIZE = st.integers(1, 65_536)
LENGTH = st.floats(1e-3, 65_536)
RECIPES = st.builds(
    Recipe,
    num_slices=st.integers(0, 500).map(lambda half: 2 * half + 1),
    slice_spacing=st.none() | LENGTH,
    z_mode=st.none() | st.sampled_from(sorted(LATTICES)),
    test_scale=SIZE,
    stored_size=SIZE,
    pixel_spacing=st.none() | LENGTH,
    window=st.tuples(st.floats(-4000, 0), st.floats(1, 4000)),
    mean=st.floats(-500, 500),
    std=LENGTH,
    colour_order=st.none() | st.permutations(COLOURS).map("".join),
    classes=st.lists(TEXT, min_size=1, max_size=5).map(tuple),
)


@given(RECIPES, RECIPES)
def test_recipes_are_read_as_they_were_written(recipe: Recipe, other: Recipe) -> None:
    assert read_recipe(json.loads(json.dumps(recipe.plain())), "a file") == recipe
    assert recipe.deviations(recipe) == {}
    there, back = recipe.deviations(other), other.deviations(recipe)
    assert set(there) == set(back) == {name for name in recipe.plain() if getattr(recipe, name) != getattr(other, name)}
    for name, values in there.items():
        assert (values["weights"], values["used"]) == (back[name]["used"], back[name]["weights"])
