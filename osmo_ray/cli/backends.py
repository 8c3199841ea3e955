"""`osmo backend`: the clusters that work is sent to."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from osmo_ray.cli.command import Command, connect, print_json, table

_FILES = {
    "certificate-authority": "certificate-authority-data",
    "client-certificate": "client-certificate-data",
    "client-key": "client-key-data",
}


def _none(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def _list(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", "/api/x/backend")
    if args.format_type == "json":
        print_json(found)
        return 0
    rows = [
        [
            b["name"],
            b["kind"] + (", agent" if b.get("agent") else ""),
            ", ".join(b["pools"]),
            b["status"],
            str(b["nodes"]),
            "; ".join(b["reasons"]),
        ]
        for b in found["backends"]
    ]
    print(table(["Backend", "Kind", "Pools", "Status", "Nodes", "Why"], rows))
    return 0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--kubeconfig", type=Path, metavar="FILE", help="how to reach the cluster")
    way.add_argument("--agent", action="store_true", help="an agent inside the cluster dials out to this platform")
    parser.add_argument("--context", default="", help="of the kubeconfig (default: its current one)")
    parser.add_argument("--namespace", default="", help="where pods are made (default: that of the context)")
    parser.add_argument("--pool", action="append", default=[], help="a pool of this cluster (default: NAME)")
    parser.add_argument("--runtime-image", default="", help="the image that stands beside each task")
    parser.add_argument("--storage-url", default="", help="how its pods reach the storage, if not as everybody")
    parser.add_argument("--scheduler", choices=["kai"], default="", help="who places groups there, if not we")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with platforms and a pod template")


def _add(args: argparse.Namespace) -> int:
    try:
        body = {**_config(args.config), **_given(args)}
        body |= {"agent": True} if args.agent else {"kubeconfig": self_contained(args.kubeconfig)}
    except (OSError, ValueError) as error:
        print(f"osmo backend add: {error}", file=sys.stderr)
        return 2
    with connect(args) as client:
        made = client.http.json("POST", f"/api/x/backend/{args.name}", body=body)
    if args.format_type == "json":
        print_json(made)
    else:
        print(f"backend {args.name} is registered; its pools: {', '.join(made['pools'])}")
        if made.get("token"):
            _show_token(args.name, made["token"])
        print("osmo backend list shows when its nodes are seen")
    return 0


def _show_token(name: str, token: str) -> None:
    print(f"the token of its agent, shown this once; it is good for the link of backend {name} alone:")
    print(f"  {token}")
    print("docs/clusters.md says how the agent is installed; `osmo backend token` gives another, or revokes it")


def _token_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--revoke", action="store_true", help="let no agent in until a new one is given")


def _token(args: argparse.Namespace) -> int:
    path = f"/api/x/backend/{args.name}/token"
    with connect(args) as client:
        if args.revoke:
            client.http.json("DELETE", path)
            print(f"the token of backend {args.name} is revoked; its agent is cut off within seconds")
            return 0
        made = client.http.json("POST", path)
    if args.format_type == "json":
        print_json(made)
    else:
        print("the token before is revoked")
        _show_token(args.name, made["token"])
    return 0


def _given(args: argparse.Namespace) -> dict[str, Any]:
    values = {
        "context": args.context,
        "namespace": args.namespace,
        "pools": args.pool,
        "runtime_image": args.runtime_image,
        "storage_url": args.storage_url,
        "scheduler": args.scheduler,
    }
    return {name: value for name, value in values.items() if value}


def _config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    import yaml

    found = yaml.safe_load(path.read_text())
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must be a mapping, such as platforms: {{a100: {{labels: {{gpu: a100}}}}}}")
    return dict(found)


def self_contained(path: Path) -> str:
    """A kubeconfig with the files that it names written into it, since they are on this machine only."""
    import base64

    import yaml

    config = yaml.safe_load(path.read_text())
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no kubeconfig")
    for kind in ("cluster", "user"):
        for entry in config.get(f"{kind}s") or ():
            values = entry.get(kind) or {}
            for name, data in _FILES.items():
                if file := values.pop(name, None):
                    values[data] = base64.b64encode((path.parent / file).read_bytes()).decode()
            if file := values.pop("tokenFile", None):
                values["token"] = (path.parent / file).read_text().strip()
    return str(yaml.safe_dump(config, sort_keys=False))


def _remove_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--force", action="store_true", help="also while work runs there; it runs on, unwatched")


def _remove(args: argparse.Namespace) -> int:
    with connect(args) as client:
        client.http.json("DELETE", f"/api/x/backend/{args.name}", {"force": args.force})
    print(f"backend {args.name} is removed")
    return 0


BACKEND_LIST = Command(_none, _list)
BACKEND_ADD = Command(_add_arguments, _add)
BACKEND_TOKEN = Command(_token_arguments, _token)
BACKEND_REMOVE = Command(_remove_arguments, _remove)
