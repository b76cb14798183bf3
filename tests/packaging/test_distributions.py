"""The sdist and the wheel: built from a clean copy, and used from an empty environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import carrot

ROOT = Path(__file__).parents[2]

# Seconds: environments are made, and packages installed from the index.
pytestmark = pytest.mark.timeout(600)
STEP_TIMEOUT = 300

# What a build or a run leaves behind, and the history.
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", "*.egg-info", "build", "dist", "_build", "__pycache__", ".*_cache",
    ".hypothesis", ".coverage*", "htmlcov",
)  # fmt: skip

# What is in the sdist, for building, testing and reading.
SHIPPED = (
    "AUTHORS", "Changelog", "LICENSE", "MANIFEST.in", "Makefile", "README.rst", "pyproject.toml",
    "setup.py", ".ci/run", ".ci/install", ".ci/venv", "carrot/__init__.py", "carrot/py.typed",
    "docs/conf.py", "examples/feed.py", "tests/conftest.py", "tests/brokers/install.sh",
    "tests/packaging/test_distributions.py",
)  # fmt: skip


def run(*command: object, cwd: Path) -> str:
    """What a command prints; it must succeed, and not see this checkout."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "CARROT_", "COV_"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=STEP_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist and the wheel, which is built from the sdist."""
    folder = tmp_path_factory.mktemp("distributions")
    shutil.copytree(ROOT, folder / "checkout", ignore=LEFT_OUT)
    run(sys.executable, "-m", "build", "--outdir", folder, folder / "checkout", cwd=folder)
    (sdist,) = folder.glob("*.tar.gz")
    (wheel,) = folder.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def test_the_sdist_holds_what_is_needed_to_build_test_and_read(
    distributions: dict[str, Path],
) -> None:
    with tarfile.open(distributions["sdist"]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert not set(SHIPPED) - names
    assert not [name for name in names if "__pycache__" in name or "_build" in name]


def test_the_wheel_holds_the_library_and_nothing_else(distributions: dict[str, Path]) -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "carrot").rglob("*")
        if path.suffix in (".py", ".typed")
    }

    with zipfile.ZipFile(distributions["wheel"]) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        described = archive.read(metadata).decode()

    assert {name for name in names if not name.startswith("carrot-")} == modules
    assert f"\nVersion: {carrot.__version__}\n" in described
    assert "\nLicense-Expression: BSD-3-Clause\n" in described
    assert {line.split()[1] for line in described.splitlines() if "Provides-Extra" in line} >= {
        "django", "yaml", "msgpack", "orjson", "test", "docs",
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["sdist", "wheel"])
def test_it_installs_into_an_empty_environment_and_runs_the_demo(
    kind: str, distributions: dict[str, Path], tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    shutil.copy(ROOT / "examples" / "feed.py", tmp_path)

    run(python, "-m", "pip", "install", "--quiet", distributions[kind], cwd=tmp_path)
    imported = run(python, "-W", "error", "-c", "import carrot", cwd=tmp_path)
    printed = run(python, "-W", "error", "feed.py", cwd=tmp_path)

    assert imported == ""
    sent = [line.split()[1] for line in printed.splitlines() if line.startswith("sent ")]
    received = [line.split()[1] for line in printed.splitlines() if line.startswith("received ")]
    assert sent
    assert sorted(sent) == sorted(received)
