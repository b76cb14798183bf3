"""What `make` sets up on a bare system, where Python can't make a virtual environment yet."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEP_TIMEOUT = 60  # seconds

VERSIONED = "python{}.{}-venv".format(*sys.version_info)
REMEDY = "only root can install it: sudo apt-get install "

# As Debian's python3: without the package, -m venv leaves a folder that is half made.
PYTHON = f"""#!/bin/sh
if [ ! -e "$SYSTEM/complete" ]; then
    case "$*" in
    "-m venv --clear "*) mkdir -p "$4"; echo "ensurepip is not available"; exit 1 ;;
    *ensurepip*) exit 1 ;;
    esac
fi
if [ "$1 $2" = "-m venv" ]; then
    if [ -e "$SYSTEM/full" ]; then echo "No space left on device"; exit 1; fi
    shift 2
    exec {sys.executable} -m venv --without-pip "$@"
fi
exec {sys.executable} "$@"
"""
# Notes what it is asked for; the package named in $SYSTEM/completes completes Python.
APT_GET = """#!/bin/sh
echo "$*" >>"$SYSTEM/asked"
if [ "$1" = install ]; then
    for package; do :; done
    if [ -e "$SYSTEM/offline" ]; then echo "E: Unable to locate package $package"; exit 100; fi
    if [ "$package" = "$(cat "$SYSTEM/completes")" ]; then touch "$SYSTEM/complete"; fi
fi
"""
TOOLS = ("cat", "dirname", "env", "find", "make", "mkdir", "mktemp", "rm", "sh", "tail", "touch")


class System:
    """A machine of which nothing is there but what the test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.venv = folder / "venv"
        self.bin.mkdir()
        for tool in TOOLS:
            path = shutil.which(tool)
            assert path, f"the test needs {tool}"
            (self.bin / tool).symlink_to(path)
        self.install("python3", PYTHON)
        self.install("id", "#!/bin/sh\necho 0\n")
        self.install("apt-get", APT_GET)
        self.note("completes", "python3-venv")

    def install(self, name: str, script: str) -> None:
        program = self.bin / name
        program.write_text(script)
        program.chmod(0o755)

    def note(self, name: str, text: str = "") -> None:
        (self.folder / name).write_text(text)

    def without(self, name: str) -> None:
        (self.bin / name).unlink()

    def run(self, *command: str) -> tuple[int, str]:
        """The exit code of a command, and what it prints."""
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={"PATH": str(self.bin), "SYSTEM": str(self.folder), "TMPDIR": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=STEP_TIMEOUT,
            check=False,
        )
        return done.returncode, done.stdout

    def make_venv(self, python: str = "python3") -> tuple[int, str]:
        return self.run(".ci/venv", python, str(self.venv))

    @property
    def installed(self) -> list[str]:
        """The packages that apt-get was asked to install."""
        asked = self.folder / "asked"
        lines = asked.read_text().splitlines() if asked.exists() else []
        return [line.rpartition(" ")[2] for line in lines if line.startswith("install ")]

    @property
    def has_venv(self) -> bool:
        return os.access(self.venv / "bin" / "python", os.X_OK)


@pytest.fixture
def system(tmp_path: Path) -> System:
    """A bare Debian or Ubuntu, used by root."""
    return System(tmp_path)


def test_a_python_that_has_all_makes_the_environment_and_installs_nothing(system: System) -> None:
    system.note("complete")

    code, printed = system.make_venv()

    assert (code, printed) == (0, "")
    assert system.has_venv
    assert not system.installed


def test_root_gets_the_missing_package_installed(system: System) -> None:
    code, printed = system.make_venv()

    assert code == 0, printed
    assert system.has_venv
    assert system.installed == ["python3-venv"]


def test_a_python3_that_is_not_the_systems_own_gets_the_package_of_its_version(
    system: System,
) -> None:
    system.note("completes", VERSIONED)

    code, printed = system.make_venv()

    assert code == 0, printed
    assert system.has_venv
    assert system.installed == ["python3-venv", VERSIONED]


def test_a_python_named_by_its_version_gets_the_package_of_that_version(system: System) -> None:
    system.install("python3.99", PYTHON)
    system.note("completes", VERSIONED)

    code, printed = system.make_venv("python3.99")

    assert code == 0, printed
    assert system.installed == [VERSIONED]


@pytest.mark.parametrize(
    ("python", "package"), [("python3", "python3-venv"), ("python3.99", VERSIONED)]
)
def test_a_user_who_is_not_root_is_told_the_one_command(
    system: System, python: str, package: str
) -> None:
    system.install("id", "#!/bin/sh\necho 1000\n")
    system.install("python3.99", PYTHON)

    code, printed = system.make_venv(python)

    assert code == 1
    assert printed == f"the venv module of {python} is missing, and {REMEDY}{package}\n"
    assert not system.installed


def test_a_system_without_apt_get_is_told_what_to_do(system: System) -> None:
    system.without("apt-get")

    code, printed = system.make_venv()

    assert code == 1
    assert "there is no apt-get: install it, or name another Python" in printed


def test_a_package_that_cannot_be_installed_is_an_error_with_its_reason(system: System) -> None:
    system.note("offline")

    code, printed = system.make_venv()

    assert code == 1
    assert "E: Unable to locate package python3-venv" in printed


def test_another_failure_is_reported_and_nothing_is_installed(system: System) -> None:
    system.note("complete")
    system.note("full")

    code, printed = system.make_venv()

    assert code == 1
    assert "No space left on device" in printed
    assert not system.installed


def test_each_package_is_tried_once(system: System) -> None:
    system.note("completes", "another")

    code, printed = system.make_venv()

    assert code == 1
    assert system.installed == ["python3-venv", VERSIONED]
    assert "ensurepip is not available" in printed


def test_make_sets_the_environment_up_by_itself(system: System) -> None:
    stamp = system.venv / ".python-{}.{}.{}".format(*sys.version_info)

    code, printed = system.run("make", f"VENV={system.venv}", str(stamp))

    assert code == 0, printed
    assert stamp.exists()
    assert system.installed == ["python3-venv"]


def test_make_stops_where_the_environment_cannot_be_made_and_begins_anew_the_next_time(
    system: System,
) -> None:
    stamp = system.venv / ".python-{}.{}.{}".format(*sys.version_info)
    system.install("id", "#!/bin/sh\necho 1000\n")

    code, printed = system.run("make", f"VENV={system.venv}", str(stamp))
    system.note("complete")  # the command that was named has been run
    code_then, printed_then = system.run("make", f"VENV={system.venv}", str(stamp))

    assert code == 2
    assert REMEDY + "python3-venv\n" in printed
    assert code_then == 0, printed_then
    assert system.has_venv


@pytest.mark.parametrize("user", ["0", "1000"])
def test_a_broker_that_cannot_be_installed_stops_nothing(system: System, user: str) -> None:
    system.install("id", f"#!/bin/sh\necho {user}\n")
    system.note("offline")

    code, printed = system.run(".ci/install", "Thing", "", "thing-server")
    brokers, _ = system.run("tests/brokers/install.sh")

    assert code == 1
    assert printed.startswith("Thing is missing")
    assert brokers == 0
