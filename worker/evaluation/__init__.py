"""What is measured of a student: bandit loss, end-to-end loss and task metrics."""
