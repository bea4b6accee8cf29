"""The parser of server-sent events."""

from __future__ import annotations

import pytest

from acetate._sse import EventParser, ServerEvent
from acetate._types import parse_time

STREAM = (
    ': keep-alive\n\nid: 7\nevent: state\ndata: {"text": "a\u2028b\u0085c"}\n\n'
    "data: one\r\ndata: two\r\n\r\nevent: empty\n\nid\ndata:three\r\rdata: unfinished"
).encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_wherever_the_pieces_end(size: int) -> None:
    parser = EventParser()
    events = [event for at in range(0, len(STREAM), size) for event in parser.feed(STREAM[at : at + size])]
    assert events == [
        ServerEvent("state", '{"text": "a\u2028b\u0085c"}', "7"),
        ServerEvent("message", "one\ntwo", "7"),
        ServerEvent("message", "three", ""),
    ]


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2026-11-26T15:00:00Z", 0),
        ("2026-11-26T15:00:00.123Z", 123000),
        ("2026-11-26T15:00:00.123456789Z", 123456),
    ],
)
def test_times_of_every_precision(text: str, microsecond: int) -> None:
    time = parse_time(text)
    assert (time.isoformat()[:19], time.microsecond) == ("2026-11-26T15:00:00", microsecond)
    assert time.tzinfo is not None
