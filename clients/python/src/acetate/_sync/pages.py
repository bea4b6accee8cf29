# Made by scripts/unasync.py from _async/pages.py. Change that file.

"""Lists of jobs, page by page."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from .._types import JobInfo
from .http import Http

_PAGE_JOBS = 200


def jobs(http: Http, *, limit: int | None = None, **filters: Any) -> Generator[JobInfo, None, None]:
    """Yields the jobs that match, newest first."""
    given = {name: value for name, value in filters.items() if value is not None}
    left = limit
    after: str | None = None
    while left is None or left > 0:
        size = _PAGE_JOBS if left is None else min(left, _PAGE_JOBS)
        page = http.get("/v1/jobs", {**given, "limit": size, **({"after": after} if after else {})})
        for job in page["jobs"]:
            yield JobInfo.parse(job)
        if left is not None:
            left -= len(page["jobs"])
        after = page["next"]
        if after is None:
            return
