"""Makes the synchronous client, `_sync`, from the one on asyncio, `_async`.

    python scripts/unasync.py            writes the files
    python scripts/unasync.py --check    fails if they are not up to date

Needs ruff. `backend.py` is what differs, and is written by hand for each.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "acetate"
HAND_WRITTEN = frozenset({"backend.py"})
# In this order, each as a whole word where it begins or ends with a letter.
WORDS = (
    ("async def", "def"),
    ("async with", "with"),
    ("async for", "for"),
    ("await ", ""),
    ("asynccontextmanager", "contextmanager"),
    ("contextlib.aclosing", "contextlib.closing"),
    ("AsyncGenerator", "Generator"),
    ("AsyncIterator", "Iterator"),
    ("AsyncClient", "Client"),
    ("AsyncService", "Service"),
    ("AsyncHttp", "Http"),
    ("AsyncJob", "Job"),
    ("AsyncBatch", "Batch"),
    ("aiter_bytes", "iter_bytes"),
    ("aiter_raw", "iter_raw"),
    ("aread", "read"),
    ("aclose", "close"),
    ("__aenter__", "__enter__"),
    ("__aexit__", "__exit__"),
)


def main() -> int:
    """Writes or checks the files."""
    check = "--check" in sys.argv[1:]
    stale = []
    for source in sorted((PACKAGE / "_async").glob("*.py")):
        target = PACKAGE / "_sync" / source.name
        if source.name in HAND_WRITTEN:
            continue
        wanted = formatted(translated(source.read_text(), source.name), target)
        if not target.exists() or target.read_text() != wanted:
            stale.append(target.name)
            if not check:
                target.write_text(wanted)
    if check and stale:
        print(f"not up to date: _sync/{', _sync/'.join(stale)}; run python scripts/unasync.py", file=sys.stderr)
        return 1
    return 0


def translated(text: str, name: str) -> str:
    """The synchronous form of a file."""
    if name == "__init__.py":
        return '"""The client on threads. `scripts/unasync.py` makes it from `_async`."""\n'
    # A generator that is read to its end into a list.
    text = re.sub(r"\[(\w+) async for (\w+) in (\w+)( if \w+)?\]", r"[\1 for \2 in \3\4]", text)
    text = re.sub(r"\bAsyncGenerator\[(.+), None\]", r"Generator[\1, None, None]", text)
    for before, after in WORDS:
        start = r"\b" if before[0].isalnum() else ""
        end = r"\b" if before[-1].isalnum() else ""
        text = re.sub(start + re.escape(before) + end, after, text)
    return f"# Made by scripts/unasync.py from _async/{name}. Change that file.\n\n{text}"


def formatted(text: str, path: Path) -> str:
    """The text as ruff writes it."""
    ruff = [sys.executable, "-m", "ruff"]
    stdin = ["--stdin-filename", str(path), "-"]
    sorted_imports = subprocess.run(
        [*ruff, "check", "--select", "I", "--fix", "--quiet", *stdin],
        input=text, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return subprocess.run(
        [*ruff, "format", "--quiet", *stdin], input=sorted_imports, capture_output=True, text=True, check=True
    ).stdout


if __name__ == "__main__":
    sys.exit(main())
