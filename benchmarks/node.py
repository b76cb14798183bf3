"""Node.js and its amqplib: found, and installed into this folder, when they can be had."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent / ".node"
WORKER = Path(__file__).parent / "peers" / "node.cjs"
PACKAGE = "amqplib@2"
TIMEOUT = 120.0  # seconds


def missing() -> str | None:
    """Why Node.js can't take part; None when it can."""
    if shutil.which("node") is None:
        return "not installed: node"
    if version() is None:
        return "not installed: amqplib"
    return None


def version() -> str | None:
    """Which amqplib is installed."""
    description = FOLDER / "node_modules" / "amqplib" / "package.json"
    if not description.exists():
        return None
    return str(json.loads(description.read_text())["version"])


def install() -> None:
    """Install amqplib, if that is possible; :func:`missing` tells whether it worked."""
    npm = shutil.which("npm")
    if npm is None or version() is not None:
        return
    FOLDER.mkdir(exist_ok=True)
    command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(FOLDER), PACKAGE]
    try:
        subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        shutil.rmtree(FOLDER)


def command() -> list[str]:
    return ["node", str(WORKER)]


def environment() -> dict[str, str]:
    return {**os.environ, "NODE_PATH": str(FOLDER / "node_modules")}
