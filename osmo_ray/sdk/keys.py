"""Keys of buckets that a client uses itself: what `osmo credential set --type DATA` was told stays here, too.

Bytes of datasets and of `osmo data` go from the client to the store, and the platform gives no key away. They stand in
`config.yaml` of the client's folder, below `auth.data`, where OSMO's own client keeps them; only its owner can read it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from osmo_ray.sdk.login import folder
from osmo_ray.spec.attempt import DataKey

_FIELDS = tuple(f.name for f in fields(DataKey))


def data_keys(file: Path | None = None) -> list[DataKey]:
    """All that are kept here, or in another such file."""
    found = []
    for endpoint, values in _data(_load(file)).items():
        if isinstance(values, Mapping):
            told = {name: str(values[name]) for name in _FIELDS if values.get(name)}
            found.append(DataKey(**{"access_key_id": "", "access_key": "", **told, "endpoint": str(endpoint)}))
    return found


def keep(name: str, values: Mapping[str, str]) -> None:
    """Keep a DATA credential; it replaces the one of the same name, and the one for the same endpoint."""
    config = _load()
    kept = {e: v for e, v in _data(config).items() if not (isinstance(v, dict) and v.get("name") == name)}
    endpoint = values["endpoint"].rstrip("/")
    kept[endpoint] = {"name": name, **{key: values[key] for key in _FIELDS if key in values}, "endpoint": endpoint}
    _save(config, kept)


def drop(name: str) -> None:
    config = _load()
    before = _data(config)
    kept = {e: v for e, v in before.items() if not (isinstance(v, dict) and v.get("name") == name)}
    if len(kept) != len(before):
        _save(config, kept)


def _path() -> Path:
    return folder() / "config.yaml"


def _load(file: Path | None = None) -> dict[str, Any]:
    import yaml

    try:
        found = yaml.safe_load((file or _path()).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _data(config: Mapping[str, Any]) -> dict[str, Any]:
    auth = config.get("auth")
    data = auth.get("data") if isinstance(auth, dict) else None
    return data if isinstance(data, dict) else {}


def _save(config: dict[str, Any], data: dict[str, Any]) -> None:
    import yaml

    auth = config.get("auth")
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        yaml.safe_dump({**config, "auth": {**(auth if isinstance(auth, dict) else {}), "data": data}}, file)
    part.replace(path)
