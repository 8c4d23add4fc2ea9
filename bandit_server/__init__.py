"""The bandit server: runs, their store, the gRPC service, the dashboard and the command line."""
