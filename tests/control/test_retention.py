"""Archives of code go when nobody names them, and not while somebody is about to."""

from __future__ import annotations

import time

from osmo_ray.api.routes import code
from osmo_ray.control import retention
from osmo_ray.control.ledger import Ledger
from osmo_ray.engine.events import Policy
from osmo_ray.objects.local import LocalStore
from osmo_ray.store.protocol import Texts
from tests.store.store_making import admitted

OLD, USED, ASKED = ("ab" * 32, "cd" * 32, "ef" * 32)


async def test_only_what_nobody_names_goes(store, tmp_path):
    objects = LocalStore(tmp_path / "objects")
    for digest in (OLD, USED, ASKED):
        objects.write(f"code/{digest}/code.zip", b"zip")
        objects.write(f"code/{digest}/.osmo-manifest.json", b"{}")
    store.submit("w", admitted, Texts("x", code=(USED,)))
    now = time.time()
    ledger = Ledger(store, Policy(), lambda: now)
    assert await retention.forget_code(ledger, objects) == 0, "all are young"
    now += 2 * 86400.0
    assert code.keep(objects, ASKED, now)
    newest = max(info.modified for info in objects.list(f"code/{ASKED}"))
    assert newest >= time.time() - 60
    now = newest + 86400.0 - 60
    assert await retention.forget_code(ledger, objects) == 0
    now += 120
    assert await retention.forget_code(ledger, objects) == 2
    assert {info.key.split("/")[1] for info in objects.list("code")} == {USED}
    assert not code.keep(objects, OLD, now)
