"""MessagePack, in which a key may be anything, a tuple too."""

from __future__ import annotations

from typing import Any

from carrot.serialization.libraries import import_library, optional

to_msgpack = optional("msgpack", "packb")


def from_msgpack(body: Any) -> Any:
    """The data in *body*."""
    msgpack = import_library("msgpack", "msgpack")
    try:
        # Keys of any type come back as they were sent.
        return msgpack.unpackb(body, strict_map_key=False)
    except TypeError:
        # Perhaps because a key was a tuple: it arrives as a list, which can't be one.
        return msgpack.unpackb(body, strict_map_key=False, object_pairs_hook=_with_tuple_keys)


def _with_tuple_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    return {_frozen(key): value for key, value in pairs}


def _frozen(key: Any) -> Any:
    return tuple(map(_frozen, key)) if isinstance(key, list) else key
