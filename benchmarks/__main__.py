"""Print the benchmarks: ``python -m benchmarks``."""

from __future__ import annotations

QUESTIONS = {
    "benchmarks.minilm": "How near does half of a real sentence encoder come to all of it, by each method?",
    "benchmarks.zoo": "Which models can be distilled? Tiny ones of 65 classes, each through a whole job.",
    "benchmarks.quality": "Does choosing modules by a bandit pay, compared with joint distillation at equal cost?",
    "benchmarks.regret": "How far is every policy from the best player, on simulated and recorded rewards?",
    "benchmarks.regret.course": "Which arms does a policy play when, on one scenario?",
    "benchmarks.regret.policy_cost": "How long does a choice take?",
    "benchmarks.server": "How fast is the bandit server, compared with the least it must do and with Optuna's?",
    "benchmarks.server.kills": "Is every reward stored exactly once when the server is killed again and again?",
    "benchmarks.server.scale_model": "How many replicas and how much of Redis do many workers need?",
    "benchmarks.server.viewers": "How much do viewers of the dashboard cost the server?",
    "benchmarks.speech": "How many words does a Whisper get wrong when its decoder is cut and distilled?",
    "benchmarks.step_time": "How long does a step of the worker take, compared with hand-written loops?",
}


def main() -> None:
    """Print every benchmark with its question."""
    width = max(map(len, QUESTIONS))
    for name, question in QUESTIONS.items():
        print(f"python -m {name:{width}}  {question}")
    print("\nEach takes --help.")


if __name__ == "__main__":
    main()
