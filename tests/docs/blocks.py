"""Runs the Python in an RST file: every block as it stands there, in order, in one namespace.

A ``text`` block right after a ``python`` block is what that block prints.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any

ROOT = Path(__file__).parents[2]

_DIRECTIVE = re.compile(r"^( *)\.\. code-block:: *(\S+) *$")


@dataclass(frozen=True)
class Block:
    """A code block of a file.

    :param line: the number of its first line of code.
    """

    language: str
    text: str
    line: int
    last_line: int


@dataclass(frozen=True)
class Example:
    """A Python block, with what it is said to print."""

    file: str
    code: Block
    output: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.code.line}"


class WrongExample(AssertionError):
    """A block raised, or printed something else than it says."""


def blocks(source: str) -> Iterator[Block]:
    """The code blocks in the text of an RST file."""
    lines = source.splitlines()
    for number, line in enumerate(lines):
        directive = _DIRECTIVE.match(line)
        if not directive:
            continue
        indentation = len(directive[1])
        body = []
        for inner in lines[number + 1 :]:
            if inner.strip() and len(inner) - len(inner.lstrip()) <= indentation:
                break
            body.append(inner)
        while body and not body[-1].strip():
            body.pop()
        # A blank line stands between the directive and its first line.
        text = dedent("\n".join(body[1:])) + "\n"
        yield Block(directive[2], text, number + 3, number + 1 + len(body))


def examples(path: Path) -> list[Example]:
    """The Python blocks of a file with their outputs."""
    found: list[Example] = []
    lines = path.read_text().splitlines()
    last: Block | None = None
    for block in blocks(path.read_text()):
        if block.language == "python":
            found.append(Example(str(path.relative_to(ROOT)), block, ""))
        elif block.language == "text" and last is not None and last.language == "python":
            between = lines[last.last_line : block.line - 3]
            if not any(line.strip() for line in between):
                found[-1] = Example(found[-1].file, last, block.text)
        last = block
    return found


def run(
    listed: list[Example],
    namespace: dict[str, Any] | None = None,
    after: Callable[[Example, Mapping[str, Any]], None] = lambda example, namespace: None,
) -> list[Example]:
    """Run the examples and compare what they print; those that were run.

    :param after: called after each.
    :raises WrongExample: names the file and the line.
    """
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    done = []
    for example in listed:
        # The empty lines give every traceback the numbers of the file.
        code = "\n" * (example.code.line - 1) + example.code.text
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                exec(compile(code, example.file, "exec"), namespace)
        except Exception as exc:
            raise WrongExample(f"{example.where} raised {type(exc).__name__}: {exc}") from exc
        if printed.getvalue() != example.output:
            raise WrongExample(
                f"{example.where} printed\n{printed.getvalue()}and says\n{example.output}"
            )
        after(example, namespace)
        done.append(example)
    return done
