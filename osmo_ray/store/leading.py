"""The lease: who leads, by the database's clock.

The epoch grows with each new holder and never goes back. A leader's commit checks holder, epoch and expiry inside its
own transaction; on PostgreSQL it holds the row against a new holder until it has committed, on SQLite it is the only
writer anyway. A stalled leader that wakes up too late therefore writes nothing.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from osmo_ray.store.protocol import Lease, LeaseLost
from osmo_ray.store.verbs import Verbs


class Leading(Verbs):
    """`acquire`, `release`, and the check that commits make."""

    def acquire(self, name: str, holder: str, ttl: float) -> Lease | None:
        clock = self.database.clock
        take = text(
            "INSERT INTO leases (name, holder, epoch, expires) "  # noqa: S608 - the clock is a constant of ours
            f"VALUES (:name, :holder, 1, {clock} + :ttl) "
            "ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires = excluded.expires, "
            "epoch = CASE WHEN leases.holder = excluded.holder THEN leases.epoch ELSE leases.epoch + 1 END "
            f"WHERE leases.holder = excluded.holder OR leases.expires <= {clock} "
            "RETURNING epoch, expires"
        )

        def work(connection: Connection) -> Lease | None:
            row = connection.execute(take, {"name": name, "holder": holder, "ttl": ttl}).first()
            return Lease(name, holder, row[0], row[1]) if row else None

        return self.database.write(work)

    def release(self, lease: Lease) -> None:
        """Free it at once; a lease that is lost already is left alone."""
        free = text(
            "UPDATE leases SET holder = '', expires = 0 WHERE name = :name AND holder = :holder AND epoch = :epoch"
        )
        values = {"name": lease.name, "holder": lease.holder, "epoch": lease.epoch}
        self.database.write(lambda connection: connection.execute(free, values))

    def check_lease(self, connection: Connection, lease: Lease) -> None:
        """Raises `LeaseLost` unless the lease is still held now; to be called first in a writing transaction."""
        lock, mark = "" if self.database.sqlite else " FOR SHARE", self.database.mark
        # The clock is read outside, so after the row is locked, however long that took.
        ask = (
            f"SELECT held.expires - {self.database.clock} FROM (SELECT expires FROM leases "  # noqa: S608 - our constants
            f"WHERE name = {mark} AND holder = {mark} AND epoch = {mark}{lock}) AS held"
        )
        row = self.database.plain(connection, ask, (lease.name, lease.holder, lease.epoch)).fetchone()
        left = row[0] if row else None
        if left is None or left <= 0:
            why = "another holder has it" if left is None else f"it expired {-left:.1f} s ago"
            raise LeaseLost(f"lease {lease.name!r} of {lease.holder} (epoch {lease.epoch}) is lost: {why}")
