"""Optuna's gRPC storage proxy on its Journal-Redis storage.

python -m benchmarks.server.optuna_proxy REDIS_URL PORT
"""

from __future__ import annotations

import argparse

import optuna
from optuna.storages.journal import JournalRedisBackend


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.optuna_proxy", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("redis_url")
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    storage = optuna.storages.JournalStorage(JournalRedisBackend(arguments.redis_url))
    optuna.storages.run_grpc_proxy_server(storage, host="127.0.0.1", port=arguments.port)


if __name__ == "__main__":
    main()
