"""The runs as this replica has them in memory: cached states, kept up to date from the store, and their snapshots."""
