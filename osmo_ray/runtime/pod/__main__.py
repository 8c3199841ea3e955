"""`python -m osmo_ray.runtime.pod init|beside`"""

from __future__ import annotations

import sys
from pathlib import Path

from osmo_ray.runtime.pod.before import before
from osmo_ray.runtime.pod.beside import beside
from osmo_ray.runtime.pod.job import job_from_json
from osmo_ray.runtime.pod.names import SECRET


def main(argv: list[str] | None = None) -> int:
    """The program of one of our containers, whichever is named."""
    what = (argv or sys.argv[1:])[0]
    job = job_from_json((Path(SECRET) / "job.json").read_text(), with_files=what == "init")
    return {"init": before, "beside": beside}[what](job)


if __name__ == "__main__":
    raise SystemExit(main())
