"""A tiny teacher and student, split into modules as the setup of a job does it."""

from open_clip import CoCa

from worker.distill.arms import layer_pairs, ownership
from worker.distill.modular import ModularModel
from worker.models.open_clip.coca import CoCaAdapter
from worker.models.open_clip.loader import OpenClipModel
from worker.setup.models import Models


def tiny_models(
    teacher: CoCa, student: CoCa, arms: dict[str, list[str]], student_layers: dict[str, str] | None = None
) -> Models:
    """Return both models; `student_layers` replaces the layers of the student's modules that it names."""
    adapter = CoCaAdapter()
    theirs, ours = ModularModel(teacher, adapter, {}), ModularModel(student, adapter, student_layers or {})
    pairs = {
        module.name: layer_pairs(ours.layers[module.name], theirs.layers[module.name]) for module in adapter.modules
    }
    owned = ownership(student, {module.name: module.path for module in adapter.modules})
    # Enough of a configuration to be recognised as CoCa's; tests with these models export nothing.
    exported = OpenClipModel(student, {"multimodal_cfg": {}})
    return Models(adapter, theirs, ours, exported, arms, pairs, owned)
