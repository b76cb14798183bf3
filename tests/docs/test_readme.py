"""README.rst's own text, run in memory and on RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, Example, WrongExample, blocks, examples, run

README = ROOT / "README.rst"


def test_every_example_of_the_readme_does_what_it_says(
    broker: str, settings_py: Callable[[Example, Mapping[str, Any]], None]
) -> None:
    listed = examples(README)

    done = run(listed, after=settings_py)

    assert done == listed


def test_every_python_block_of_the_readme_is_an_example() -> None:
    directives = README.read_text().count(".. code-block:: python")

    listed = examples(README)

    assert len(listed) == directives > 40


def test_every_code_block_of_the_readme_is_python_output_or_shell() -> None:
    text = README.read_text()

    languages = [block.language for block in blocks(text)]

    assert set(languages) == {"python", "text", "console"}
    assert languages.count("text") == sum(bool(example.output) for example in examples(README))
    # A plain "::" at the end of a line would be code that nobody runs.
    assert not any(line.endswith("::") and ".. " not in line for line in text.splitlines())


RIGHT = """\
.. code-block:: python

    print(1 + 1)

.. code-block:: text

    2
"""


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("    2\n", "    3\n", "printed\n2\nand says\n3"),
        ("print(1 + 1)", "pass", "printed\nand says\n2"),
        ("print(1 + 1)", "print(one)", "raised NameError"),
        ("print(1 + 1)", "print(", "raised SyntaxError"),
    ],
)
def test_a_wrong_block_fails_with_its_line(
    right: str, wrong: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.docs.blocks.ROOT", tmp_path)
    page = tmp_path / "page.rst"
    page.write_text(RIGHT)
    assert len(run(examples(page))) == 1
    page.write_text(RIGHT.replace(right, wrong))

    with pytest.raises(WrongExample, match=r"^page\.rst:3 ") as caught:
        run(examples(page))

    assert complaint in str(caught.value)


def test_output_that_is_not_shown_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.docs.blocks.ROOT", tmp_path)
    page = tmp_path / "page.rst"
    page.write_text(RIGHT.replace(".. code-block:: text", "Prose between.\n\n.. code-block:: text"))

    with pytest.raises(WrongExample, match="and says"):
        run(examples(page))
