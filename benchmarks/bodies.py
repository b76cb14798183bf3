"""Message data whose JSON has exactly the size that a case asks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

SMALL, MEDIUM, LARGE = 80, 4096, 1 << 20  # bytes


def body(size: int, dumps: Callable[[Any], str | bytes] = json.dumps) -> dict[str, Any]:
    """A dict like those that programs send; encoded by *dumps* it has *size* bytes."""
    data = {"id": 1234567, "action": "import_feed", "ok": True, "text": ""}
    data["text"] = "x" * (size - len(dumps(data)))
    if len(dumps(data)) != size:
        raise ValueError(f"no body can be {size} bytes")
    return data
