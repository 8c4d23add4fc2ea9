"""From a recipe to the components that train: loading, building, checking, autotuning."""
