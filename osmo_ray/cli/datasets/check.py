"""`osmo dataset check`: what may be done with the bucket of a dataset, found out by doing it."""

from __future__ import annotations

import argparse
import uuid

from osmo_ray.cli.command import connect, print_json
from osmo_ray.cli.datasets.common import named, verb
from osmo_ray.sdk.errors import ClientError

VERBS = ("READ", "WRITE", "DELETE")


def _arguments(parser: argparse.ArgumentParser) -> None:
    named(parser)
    parser.add_argument("--access-type", "-a", type=str.upper, choices=VERBS, default="READ", help="(default: READ)")


def _check(args: argparse.Namespace) -> int:
    from osmo_ray.data.errors import DataError
    from osmo_ray.objects.protocol import ObjectError
    from osmo_ray.sdk import buckets

    try:
        with connect(args) as client:
            reference = buckets.named(client, args.name)
            store = buckets.opened(client, reference.bucket, write=args.access_type != "READ").bucket.store
        if args.access_type == "READ":
            next(iter(store.list("names")), None)
        else:
            key = f".osmo-check-{uuid.uuid4().hex}"
            store.write(key, b"")
            store.delete([key])
    except (DataError, ObjectError, OSError, ClientError) as error:
        print_json({"status": "fail", "error": str(error)})
        return 1
    print_json({"status": "pass"})
    return 0


CHECK = verb(_arguments, _check)
