"""The client on asyncio. `scripts/unasync.py` makes `_sync` from it."""
