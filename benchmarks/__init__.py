"""The benchmarks: one folder for each question. ``python -m benchmarks`` lists the commands."""
