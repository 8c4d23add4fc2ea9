"""What ``--dry-run`` prints."""

from collections.abc import Iterator, Sequence

from worker.distill.arms import JOINT
from worker.setup.dry_run import Proven
from worker.setup.models import Models


def report(models: Models, proven: Sequence[Proven]) -> str:
    """Every arm: hooks, shapes, gradients, parameters owned, cost of a step; then what belongs to no arm."""
    joint = next(one.seconds for one in proven if one.arm == JOINT)
    return "\n".join(line for lines in (*(_arm(models, one, joint) for one in proven), _rest(models)) for line in lines)


def _arm(models: Models, proven: Proven, joint: float) -> Iterator[str]:
    plan = proven.plan
    listed = proven.arm in models.arms
    yield f"arm {proven.arm}" + ("" if listed else " (the tail; no arm of the recipe)")
    inputs = "the teacher's boundary tensors" if plan.forced else "the student's own inputs"
    yield f"  trains         {', '.join(plan.trained)}, on {inputs}"
    yield f"  computes       student: {', '.join(plan.student)}; teacher: {', '.join(plan.teacher)}"
    names = [name for module in plan.trained for name in models.ownership.owned[module]]
    parameters = dict(models.student.model.named_parameters())
    # Under ZeRO 3 a parameter's own shape is empty; DeepSpeed keeps the whole one beside it.
    count = sum(int(getattr(parameters[name], "ds_numel", parameters[name].numel())) for name in names)
    yield f"  owns           {count:,} parameters in {len(names)} tensors"
    if proven.silent:
        yield f"  no gradient    {len(proven.silent)} of these tensors: {', '.join(proven.silent)}"
    yield f"  hooks          all {len(proven.layers)} pairs of layers fired; student's layer <- teacher's:"
    width = max((len(layer.student) for layer in proven.layers), default=0)
    for layer in proven.layers:
        lifted = "" if layer.student_shape == layer.teacher_shape else ", projected"
        size = f"at most {layer.gradient:.1e}" if layer.gradient else "but is 0: nothing differs from the teacher"
        yield (
            f"    {layer.student:{width}}  {list(layer.student_shape)} <- {layer.teacher} {list(layer.teacher_shape)}"
            f"{lifted}; gradient reaches {layer.reached} of {layer.parameters} tensors, {size}"
        )
    yield f"  cost of a step {proven.seconds:.4f} s, {proven.seconds / joint:.0%} of joint"


def _rest(models: Models) -> Iterator[str]:
    owned = models.ownership
    parameters = dict(models.student.model.named_parameters())
    for name, others in owned.tied.items():
        owner = next(module for module, names in owned.owned.items() if name in names)
        yield f"{name} is shared: it moves with {owner}, listed before {', '.join(others)}"
    in_arms = {module for members in models.arms.values() for module in members}
    for module in owned.owned:
        if module not in in_arms:
            yield f"{module} is in no arm: only joint rounds train it"
    count = sum(int(getattr(parameters[name], "ds_numel", parameters[name].numel())) for name in owned.unowned)
    names = f": {', '.join(owned.unowned)}" if owned.unowned else ""
    yield f"{count:,} parameters in {len(owned.unowned)} tensors belong to no module and stay as they are{names}"
