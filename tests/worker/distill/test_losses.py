"""Losses: exact values on small cases, and what masks and scales may not change."""

import math

import pytest
import torch

from worker.distill.losses import cosine, logit_kl, normalised_mse


def test_normalised_mse_is_zero_for_a_match_and_one_for_zeros() -> None:
    teacher = torch.randn(2, 3, 4)
    assert normalised_mse(teacher.clone(), teacher, None).item() == 0
    assert normalised_mse(torch.zeros_like(teacher), teacher, None).item() == pytest.approx(1)


def test_normalised_mse_does_not_depend_on_the_scale_of_the_layer() -> None:
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    large = normalised_mse(student * 1024, teacher * 1024, None)
    assert large.item() == pytest.approx(normalised_mse(student, teacher, None).item())


@pytest.mark.parametrize("loss", [normalised_mse, cosine, lambda s, t, m: logit_kl(s, t, m, 2.0)])
def test_masked_positions_do_not_count(loss) -> None:  # type: ignore[no-untyped-def]
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    expected = loss(student, teacher, mask)
    student[~mask] = 1e6
    teacher[~mask] = -1e6
    assert loss(student, teacher, mask).item() == pytest.approx(expected.item(), rel=1e-5)


def test_cosine_distance_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert cosine(student, teacher, None).item() == pytest.approx(0.5)


def test_logit_kl_by_hand() -> None:
    teacher = torch.log(torch.tensor([[[0.5, 0.5]]]))
    student = torch.log(torch.tensor([[[0.25, 0.75]]]))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert logit_kl(student, teacher, None, 1.0).item() == pytest.approx(expected)


def test_half_precision_inputs_are_reduced_in_fp32() -> None:
    teacher = torch.full((1, 4096, 4), 8.0, dtype=torch.bfloat16)
    assert normalised_mse(torch.zeros_like(teacher), teacher, None).dtype == torch.float32
    assert normalised_mse(torch.zeros_like(teacher), teacher, None).item() == 1
