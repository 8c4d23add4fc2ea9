"""The regret of every policy on simulated and recorded rewards (docs/bandit.md)."""
