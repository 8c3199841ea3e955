"""Remove finished work whose time is over, now, instead of waiting for the controller's own round.

ray job submit --address http://127.0.0.1:8265 -- python jobs/collect.py --older-than 7d
"""

import argparse
import time

from osmo_ray import settings
from osmo_ray.control.retention import forget
from osmo_ray.objects import open_store
from osmo_ray.spec.quantity import to_seconds
from osmo_ray.store.sql import SqlStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--older-than", default="30d", help="finished longer ago than this (30m, 12h, 7d)")
    args = parser.parse_args()
    loaded = settings.load()
    store, objects = SqlStore(loaded.database), open_store(loaded.storage)
    removed = 0
    while old := store.finished_before(time.time() - to_seconds(args.older_than), 100):
        used = store.forget_results([row.uuid for row in old])
        old = [row for row in old if row.uuid not in used]
        forget(objects, old)
        removed += store.delete_workflows([row.uuid for row in old])
        if used:
            break  # somebody has just begun to use them
    print(f"removed {removed} workflows")


if __name__ == "__main__":
    main()
