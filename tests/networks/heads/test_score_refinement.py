"""Score refinement: the start as released, what is read of boxes and patients."""

from __future__ import annotations

import math

import pytest
import torch

from scripts.networks.heads.score_refinement import Patient, ScoreRefinement


@pytest.mark.parametrize("extras", [(), ("box", "patient"), ("patient", "position", "box")])
@pytest.mark.parametrize("num_classes", [1, 3])
@torch.no_grad()
def test_it_starts_as_the_identity(extras: tuple[str, ...], num_classes: int) -> None:
    refine = ScoreRefinement(4, extras, num_classes)
    boxes = torch.tensor([[1.0, 2.0, 30.0, 40.0]] * 3)
    known = refine.read(boxes, (64, 96), Patient(1, 60, 0.7))
    classes, tags = torch.randn(3, 1 + num_classes), torch.randn(3, 4)
    found = refine(classes, tags, known)
    assert known.shape == (3, {0: 0, 2: 6, 3: 7}[len(extras)])
    torch.testing.assert_close(found, (classes, tags))


def test_extras_are_read_in_the_released_order() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    read = ScoreRefinement(4, ("patient", "position", "box")).read(boxes, (80, 40), Patient(1, 60, 0.7))
    torch.testing.assert_close(read, torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.7, 1.0, 0.6]]))


@pytest.mark.parametrize(
    ("patient", "numbers"),
    [
        (Patient(), [0.5, 0.0, 0.5]),
        (Patient(1.0, 0.0, 0.25), [0.25, 1.0, 0.5]),
        (Patient(age=7.0), [0.5, 0.0, 0.07]),
        (Patient(math.nan, math.nan, 0.0), [0.0, 0.0, 0.5]),
    ],
)
def test_what_is_not_known_of_a_patient(patient: Patient, numbers: list[float]) -> None:
    read = ScoreRefinement(4, ("position", "patient")).read(torch.zeros(2, 4), (8, 8), patient)
    torch.testing.assert_close(read, torch.tensor([numbers] * 2))


def test_other_extras_are_rejected() -> None:
    with pytest.raises(ValueError, match="among box, position, patient, got 'weight'"):
        ScoreRefinement(4, ("box", "weight"))


def test_lesions_say_who_their_patient_is() -> None:
    said = {"male": torch.tensor([1.0, 1.0]), "age": torch.tensor([61.0, 61.0])}
    assert Patient.of(said)[:2] == (1.0, 61.0)
    assert math.isnan(Patient.of(said).position)
    assert math.isnan(Patient.of({"male": torch.zeros(0)}).male)
