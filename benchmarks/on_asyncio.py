"""`optima` on asyncio's own event loop, to see what uvloop saves: ``python -m benchmarks.on_asyncio serve …``."""

from __future__ import annotations

import asyncio

import uvloop

from bandit_server.cli import main

if __name__ == "__main__":
    uvloop.run = asyncio.run
    main()
