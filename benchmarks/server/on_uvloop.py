"""The `optima` command on uvloop instead of asyncio's event loop: ``python -m benchmarks.server.on_uvloop serve …``."""

from __future__ import annotations

import asyncio

import uvloop

from bandit_server.cli import main

if __name__ == "__main__":
    asyncio.run = uvloop.run
    main()
