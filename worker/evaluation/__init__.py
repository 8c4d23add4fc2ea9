"""Measurements of the student: bandit loss, end-to-end loss and task metrics."""
