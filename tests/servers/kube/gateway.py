"""A storage gateway for pods of the test cluster, where they can reach it: `python gateway.py FOLDER KEY HOST PORT`."""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI

from osmo_ray.api.gateway import gateway
from osmo_ray.objects.local import LocalStore

if __name__ == "__main__":
    folder, key, host, port = sys.argv[1:5]
    app = FastAPI()
    app.include_router(gateway(LocalStore(folder), bytes.fromhex(key)))
    uvicorn.run(app, host=host, port=int(port), log_level="warning")
