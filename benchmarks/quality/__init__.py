"""Students distilled by each method: which ends better at equal cost (docs/does-it-pay.md)."""
