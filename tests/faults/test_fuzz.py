"""A million broken inputs to the frame decoder: events or one clear error, in time and memory."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest
from pamqp import commands, frame

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import Decoder
from tests.faults.ledger import seeded

FRAME_MAX = 4096
INPUTS = 1_000_000
SLOWEST = 0.5  # seconds for one input of a few hundred bytes


def _valid() -> list[bytes]:
    """Frames as a broker sends them."""
    deliver = commands.Basic.Deliver("tag", 1, False, "exchange", "key")
    content = (
        frame.marshal(deliver, 1)
        + b"\x02\x00\x01\x00\x00\x00\x0e\x00\x3c\x00\x00"
        + (5).to_bytes(8)
        + b"\x00\x00\xce"
        + b"\x03\x00\x01\x00\x00\x00\x05hello\xce"
    )
    return [
        content,
        content * 2,
        frame.marshal(commands.Basic.Ack(1, True), 1),
        frame.marshal(commands.Channel.Close(404, "NOT_FOUND", 60, 70), 1),
        frame.marshal(commands.Queue.DeclareOk("queue", 1, 2), 2),
        b"\x08\x00\x00\x00\x00\x00\x00\xce",
    ]


def _broken(chance: random.Random, valid: list[bytes]) -> bytes:
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(chance.randrange(60))
    data = bytearray(chance.choice(valid) + chance.choice(valid))
    if kind == 1:
        del data[chance.randrange(len(data)) :]
    elif kind == 2:
        start = chance.randrange(len(data))
        del data[start : start + chance.randrange(1, 8)]
    else:
        for _ in range(chance.randrange(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def _feed(inputs: int) -> int:
    """Feed so many inputs to decoders; returns how many were refused."""
    refused, slowest, valid = 0, 0.0, _valid()
    with seeded() as chance:
        tracemalloc.start()
        try:
            for _ in range(inputs):
                data = _broken(chance, valid)
                cut = chance.randrange(len(data) + 1)
                decoder = Decoder(FRAME_MAX)
                begun = time.perf_counter()
                try:
                    for piece in (data[:cut], data[cut:]):
                        decoder.feed(piece)
                except FramingError:
                    refused += 1
                slowest = max(slowest, time.perf_counter() - begun)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 100 * FRAME_MAX
    assert slowest < SLOWEST
    return refused


def test_broken_frames_are_events_or_one_clear_error():
    refused = _feed(5000)
    assert 1000 < refused < 5000


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_million_broken_inputs():
    print(f"{_feed(INPUTS)} of {INPUTS} inputs refused, the others were frames or parts of some")
