"""The bandit: pure functions of history. No clock, no I/O, no names: arms are numbers from 0.

history.py    each arm's last rewards              reward.py   what a round is worth
posterior.py  what they say about each arm         random.py   randomness that any replica repeats
policy/       which arm is next
"""
