"""The core: one session's state, fair shares, order, placement, victims and the five actions. Pure; arrays of nodes."""
