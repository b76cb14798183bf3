"""The methods off the hot path: what we encode pamqp reads, and what it marshals we decode."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import base, commands, frame

from carrot.backends.amqp.errors import FramingError
from carrot.backends.amqp.framing import Decoder
from carrot.backends.amqp.methods import decode_method, encode_method

ARGUMENTS = {"x-max-length": 3, "x-name": "n", "x-nested": {"list": [1, 2]}}

SENT: list[tuple[type[base.Frame], dict[str, Any]]] = [
    (
        commands.Connection.StartOk,
        {"client_properties": {"a": True}, "mechanism": "PLAIN", "response": "\0u\0p"},
    ),
    (commands.Connection.TuneOk, {"channel_max": 5, "frame_max": 4096, "heartbeat": 1}),
    (commands.Connection.Open, {"virtual_host": "/"}),
    (commands.Connection.Close, {"reply_code": 200, "reply_text": "bye"}),
    (commands.Connection.CloseOk, {}),
    (commands.Channel.Open, {}),
    (commands.Channel.Close, {"reply_code": 200}),
    (commands.Channel.CloseOk, {}),
    (commands.Channel.FlowOk, {"active": True}),
    (
        commands.Exchange.Declare,
        {"exchange": "e", "exchange_type": "topic", "durable": True, "arguments": ARGUMENTS},
    ),
    (commands.Exchange.Declare, {"exchange": "e", "passive": True, "auto_delete": True}),
    (commands.Exchange.Delete, {"exchange": "e", "if_unused": True}),
    (
        commands.Exchange.Bind,
        {"destination": "d", "source": "s", "routing_key": "k", "arguments": ARGUMENTS},
    ),
    (commands.Exchange.Unbind, {"destination": "d", "source": "s", "routing_key": "k"}),
    (
        commands.Queue.Declare,
        {"queue": "q", "durable": True, "exclusive": True, "arguments": ARGUMENTS},
    ),
    (commands.Queue.Declare, {"queue": "", "auto_delete": True}),
    (commands.Queue.Bind, {"queue": "q", "exchange": "e", "routing_key": "k"}),
    (commands.Queue.Unbind, {"queue": "q", "exchange": "e", "routing_key": "k"}),
    (commands.Queue.Purge, {"queue": "q"}),
    (commands.Queue.Delete, {"queue": "q", "if_unused": True, "if_empty": True}),
    (commands.Basic.Qos, {"prefetch_count": 100, "global_": True}),
    (commands.Basic.Consume, {"queue": "q", "consumer_tag": "t", "no_ack": True}),
    (commands.Basic.Cancel, {"consumer_tag": "t"}),
    (commands.Basic.Get, {"queue": "q", "no_ack": True}),
    (commands.Confirm.Select, {}),
]

RECEIVED: list[base.Frame] = [
    commands.Connection.Start(
        0, 9, {"product": "RabbitMQ", "capabilities": {"basic.nack": True}}, "PLAIN AMQPLAIN"
    ),
    commands.Connection.Tune(2047, 131072, 60),
    commands.Connection.OpenOk(),
    commands.Connection.Close(320, "CONNECTION_FORCED - maintenance", 0, 0),
    commands.Connection.CloseOk(),
    commands.Connection.Blocked("low on memory"),
    commands.Connection.Unblocked(),
    commands.Channel.OpenOk(),
    commands.Channel.Close(404, "NOT_FOUND - no queue 'x'", 50, 10),
    commands.Channel.CloseOk(),
    commands.Channel.Flow(False),
    commands.Exchange.DeclareOk(),
    commands.Exchange.BindOk(),
    commands.Queue.DeclareOk("amq.gen-x", 7, 2),
    commands.Queue.PurgeOk(7),
    commands.Queue.DeleteOk(7),
    commands.Basic.ConsumeOk("t"),
    commands.Basic.CancelOk("t"),
    commands.Basic.Cancel("t", True),
    commands.Basic.QosOk(),
    commands.Basic.GetEmpty(),
    commands.Confirm.SelectOk(),
]


def case_name(case: Any) -> str | None:
    if isinstance(case, type) and issubclass(case, base.Frame):
        return str(case.name)
    return str(case.name) if isinstance(case, base.Frame) else None


@pytest.mark.parametrize(("method", "arguments"), SENT, ids=case_name)
def test_pamqp_reads_what_we_encode(method: type[base.Frame], arguments: dict[str, Any]) -> None:
    data = encode_method(method, 7, **arguments)

    size, channel, read = frame.unmarshal(data)

    assert (size, channel, type(read)) == (len(data), 7, method)
    assert {name: dict(read)[name] for name in arguments} == arguments
    left_out = {name: value for name, value in read if name not in arguments}
    assert not any(left_out.values()), left_out


@pytest.mark.parametrize("command", RECEIVED, ids=case_name)
def test_we_read_what_pamqp_encodes(command: base.Frame) -> None:
    (event,) = Decoder(131072).feed(frame.marshal(command, 3))

    read = decode_method(event.method, event.arguments)

    assert type(read) is type(command)
    assert dict(read) == dict(command)


def test_none_is_an_empty_argument() -> None:
    given_none = encode_method(commands.Queue.Declare, 1, queue=None, arguments=None)

    assert given_none == encode_method(commands.Queue.Declare, 1)


def test_unknown_argument_is_a_type_error() -> None:
    with pytest.raises(TypeError, match=r"Queue.Declare has no argument \['colour'\]"):
        encode_method(commands.Queue.Declare, 1, colour="red")


@pytest.mark.parametrize("name", ["über", "with space", "a/b", "x" * 255, ""])
def test_names_that_brokers_take_are_not_refused(name: str) -> None:
    data = encode_method(commands.Queue.Declare, 1, queue=name)

    assert name.encode() in data
    assert dict(decode_method(commands.Queue.Declare.index, data[11:-1]))["queue"] == name


def test_arguments_that_pamqp_would_spoil_travel_whole() -> None:
    arguments = {"k" * 200: 0.1}

    data = encode_method(commands.Queue.Declare, 1, queue="q", arguments=arguments)

    assert dict(decode_method(commands.Queue.Declare.index, data[11:-1]))["arguments"] == arguments


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        (0xFFFFFFFF, b""),
        (commands.Channel.Close.index, b""),
        (commands.Channel.Close.index, b"\x01"),
        (commands.Connection.Start.index, b"\x00\x09\x00\x00\x00\xff"),
        (commands.Queue.DeclareOk.index, b"\xffq"),
        (commands.Basic.ConsumeOk.index, b"\x02\xff\xff"),
    ],
)
def test_method_that_cannot_be_decoded_is_one_clear_error(method: int, arguments: bytes) -> None:
    with pytest.raises(FramingError, match="can't be decoded"):
        decode_method(method, arguments)


# pamqp warns of the methods that AMQP 0-9-1 has given up.
@pytest.mark.filterwarnings("ignore:This command is deprecated:DeprecationWarning")
@settings(max_examples=500)
@given(st.sampled_from(sorted(commands.INDEX_MAPPING)), st.binary(max_size=80))
def test_arbitrary_arguments_are_a_method_or_one_clear_error(method: int, data: bytes) -> None:
    with suppress(FramingError):
        decode_method(method, data)


def test_deep_nesting_is_one_clear_error() -> None:
    fields = b"V"
    for _ in range(20_000):
        fields = b"F" + (len(fields) + 2).to_bytes(4) + b"\x01k" + fields
    table = (len(fields) + 2).to_bytes(4) + b"\x01k" + fields

    with pytest.raises(FramingError):
        decode_method(commands.Connection.Start.index, b"\x00\x09" + table)
