"""The verbs that look inside running tasks: exec, port-forward, rsync, and SSH over them."""
