"""A look inside a running attempt: commands in its sandbox, and connections in its network.

    caller --socket--> keeper (host's own namespaces) -- worker (enters the sandbox, moves bytes) -- the command

Both are forks of the zygote, so a session costs no interpreter, and the node's agent moves none of its bytes.
"""
