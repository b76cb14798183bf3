"""One measurement in a fresh process: ``python -m benchmarks.worker JOB`` prints its Result."""

from __future__ import annotations

import os
import sys

from benchmarks.job import Job, Result
from benchmarks.scenarios import scenario


def measure(job: Job) -> Result:
    """Do the job here; every way in which it can end is a Result."""
    try:
        return scenario(job.scenario).run(job)
    except ModuleNotFoundError as exc:
        return Result(skipped=f"not installed: {exc.name}")
    except Exception as exc:
        return Result(failed=f"{type(exc).__name__}: {exc}")


if __name__ == "__main__":
    print(measure(Job.from_json(sys.argv[1])).to_json(), flush=True)
    # Some clients' threads and sockets take seconds to close, and nothing here needs them.
    os._exit(0)
