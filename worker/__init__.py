"""Distils a student, module by module."""

import os

# DeepSpeed greets when it is imported and on every setting; ranks share one terminal.
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
