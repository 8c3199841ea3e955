"""Where work runs: one protocol, several kinds of cluster."""
