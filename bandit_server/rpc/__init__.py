"""The gRPC service: handlers, request validation, authentication, metrics."""
