"""The worker: distils a student module by module, as the bandit server chooses."""

import os

# DeepSpeed logs at import and for every setting, on every rank, and the ranks share one terminal.
os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")
