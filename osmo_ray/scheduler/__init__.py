"""Which groups start where: `plan(snapshot) -> Plan`, pure."""
