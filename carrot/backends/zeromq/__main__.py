"""``python -m carrot.backends.zeromq``: the name that ``python -m carrot.server`` had before."""

from __future__ import annotations

from carrot.server.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
