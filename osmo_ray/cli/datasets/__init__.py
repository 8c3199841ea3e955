"""`osmo dataset`, `osmo data` and `osmo bucket`."""
