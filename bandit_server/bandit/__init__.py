"""The bandit: no clock, no I/O, no names; arms are numbers from 0.

from bandit_server.bandit import Bandit

bandit.py     a bandit without a server        random.py     randomness that any replica repeats
policy/       which arm is next                reward.py     what a round is worth
bank.py       what recent rewards say          units.py      rewards without their units
evidence.py   the same, for published policies noise.py      how noisy they are
posterior.py  what is believed of an arm       memory.py     what a policy remembers, written down
history.py    an arm's last rewards
simulate.py   a policy on a known problem      scenarios.py  the problems, made of changing.py, or of traces.py
"""

from bandit_server.bandit.bandit import Bandit, Pull
from bandit_server.bandit.posterior import ArmPosterior

__all__ = ["ArmPosterior", "Bandit", "Pull"]
