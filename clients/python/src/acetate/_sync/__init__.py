"""The client on threads. `scripts/unasync.py` makes it from `_async`."""
