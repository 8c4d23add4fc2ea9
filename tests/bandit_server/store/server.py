"""A server process with an embedded store, to be killed: appends to run r and prints the version that was stored.

python -m tests.bandit_server.store.server DIRECTORY
"""

import asyncio
import sys
from pathlib import Path

from bandit_server.store.base import Head
from bandit_server.store.embedded import EmbeddedValkey
from bandit_server.store.redis_store import RedisStore


async def serve(directory: Path) -> None:
    """Append until killed."""
    valkey = EmbeddedValkey(directory, fsync="always")
    await valkey.start()
    store = RedisStore(valkey.url)
    head = (await store.heads(["r"]))[0]
    while await store.append("r", head, [b"%d" % (head.version + 1)], incarnation="one") == "stored":
        head = Head(head.version + 1, "one", False)
        print(head.version, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
