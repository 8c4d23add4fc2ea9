"""Optuna's gRPC storage proxy on its Journal-Redis storage.

python -m benchmarks.server.optuna_proxy REDIS_URL PORT
"""

from __future__ import annotations

import sys

import optuna
from optuna.storages.journal import JournalRedisBackend


def main() -> None:
    """Serve until killed."""
    storage = optuna.storages.JournalStorage(JournalRedisBackend(sys.argv[1]))
    optuna.storages.run_grpc_proxy_server(storage, host="127.0.0.1", port=int(sys.argv[2]))


if __name__ == "__main__":
    main()
