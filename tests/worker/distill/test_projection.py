"""Students of another width: what is projected, who owns it, and what is refused."""

import pytest
import torch
from open_clip import CoCa

from tests.worker.jobs.tiny_coca import batch, coca
from tests.worker.jobs.tiny_models import tiny_models
from worker.distill.objective import LossWeights, Objective
from worker.distill.projection import HiddenWidths, Projections, principal_map
from worker.distill.student import Student
from worker.errors import RecipeError
from worker.setup.models import Models
from worker.setup.shape_check import compare_shapes


def models(student: CoCa, layers: dict[str, str] | None = None) -> Models:
    return tiny_models(coca(1), student, {"image": ["image"], "words": ["text", "multimodal"]}, layers)


def test_equal_widths_need_no_projection() -> None:
    widths = compare_shapes(models(coca(2)), batch(0), forced=True)
    assert (widths.hidden, widths.boundary) == ({}, {})
    hidden = {"layer": torch.ones(1)}
    assert Projections({}, {}).lift(hidden) is hidden


def test_every_pair_of_other_widths_has_a_projection_owned_by_its_module() -> None:
    made = models(coca(2, width=16))
    widths = compare_shapes(made, batch(0), forced=True)
    assert widths.hidden["text.transformer.resblocks.1"] == HiddenWidths("text", 16, 32)
    assert widths.boundary == {("image", "tokens"): 16, ("image", "latent"): 16,
                               ("text", "tokens"): 16, ("text", "latent"): 16}  # fmt: skip
    maps = {pair: torch.eye(32)[:16] for pair in widths.boundary}
    student = Student(
        made.student, Objective(made.adapter, made.pairs, LossWeights()), Projections(widths.hidden, maps)
    )
    owned = student.owned(made.ownership.owned)
    parameters = dict(student.named_parameters())
    assert {name for names in owned.values() for name in names} | {"model.logit_scale"} == set(parameters)
    projections = [name for name in owned["text"] if name.startswith("projections.")]
    assert [parameters[name].shape for name in projections] == [(32, 16), (32, 16)]
    # What is exported is the bare model's.
    assert set(made.student.model.state_dict()) == {
        name.removeprefix("model.") for name in student.state_dict() if name.startswith("model.")
    }


def test_without_teacher_forcing_only_what_is_matched_is_projected() -> None:
    widths = compare_shapes(models(coca(2, width=16)), batch(0), forced=False)
    assert ("text", "tokens") not in widths.boundary
    assert ("image", "tokens") in widths.boundary


def test_a_boundary_map_keeps_the_most_energy_and_depends_on_no_sign() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6)).Q
    samples = torch.randn(500, 6) * torch.tensor([5.0, 3.0, 0.1, 0.1, 0.1, 0.1]) @ basis.T
    found = principal_map([samples], [None], 2)
    assert torch.allclose(found @ found.T, torch.eye(2, dtype=torch.float64), atol=1e-9)
    preserved = (samples.double() @ found.T).square().sum() / samples.double().square().sum()
    assert preserved > 0.99
    mask = torch.arange(500) < 400
    assert torch.equal(principal_map([samples], [mask], 2), principal_map([samples[:400]], [None], 2))
    wider = principal_map([samples], [None], 8)
    assert wider.shape == (8, 6)
    assert torch.allclose(wider.T @ wider, torch.eye(6, dtype=torch.float64), atol=1e-9)


def test_a_hook_that_never_fires_is_told_with_its_arm_and_the_nearest_names() -> None:
    made = models(coca(2), {"text": "text.transformer.resblocks"})
    with pytest.raises(RecipeError, match=r"arm words: the hook on the student's text\.transformer\.resblocks did not "
                       r"fire.*did you mean .*text\.transformer\.resblocks\.\d"):  # fmt: skip
        compare_shapes(made, batch(0), forced=True)


def test_shapes_that_cannot_be_compared_are_told_with_arm_and_shapes() -> None:
    student = coca(2)
    student.visual.conv1 = torch.nn.Conv2d(3, 32, kernel_size=2, stride=2, bias=False)
    student.visual.positional_embedding = torch.nn.Parameter(torch.zeros(17, 32))
    student.visual.grid_size = (4, 4)
    with pytest.raises(RecipeError, match=r"arm image: .*layer visual\.transformer\.resblocks\.0.*\[4, 17, 32\].*"
                       r"\[4, 5, 32\]; only the last dimension may differ"):  # fmt: skip
        compare_shapes(models(student), batch(0), forced=True)


def test_data_that_a_model_cannot_read_is_told() -> None:
    rows = batch(0)
    rows["image"] = rows["image"][..., :4]
    with pytest.raises(
        RecipeError, match=r"the student's forward pass fails on the data's batches \(image \[4, 3, 8, 4\]"
    ):
        compare_shapes(models(coca(2)), rows, forced=True)
