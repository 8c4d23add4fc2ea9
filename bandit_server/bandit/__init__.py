"""The bandit: pure arithmetic without a clock, I/O or names. Arms are numbered from 0.

    from bandit_server.bandit import Bandit

What a server runs:

    bandit.py         a bandit that works without a server
    policy/           rules that choose the next arm
    filter_bank.py    Kalman filters under many hypotheses about change, for `optima`
    estimators.py     means of recent rewards, for the index policies
    posterior.py      the belief about an arm, and the probability that it is the best
    noise.py          the standard deviation of a reward
    scaling.py        rewards on a common scale
    history.py        the last rewards of each arm
    reward.py         the reward of a round
    random.py         random numbers that any replica can repeat
    serialization.py  the state of a policy as JSON values

The laboratory, which the server does not import:

    policy/published/  policies from the literature, for comparison
    simulation/        bandit problems with a known best player, and recorded rewards
"""

from bandit_server.bandit.bandit import Bandit, Pull
from bandit_server.bandit.posterior import ArmPosterior

__all__ = ["ArmPosterior", "Bandit", "Pull"]
