"""The far end of `osmo workflow rsync`: the rsync program of the task's own file system as a daemon on a pipe.

Module `osmo` is the workspace. The daemon is started for one connection, inside the sandbox and with its rights, so it
can reach nothing that the task cannot.
"""

from __future__ import annotations

WORKSPACE = "/osmo/run/workspace"
_NO_RSYNC = 127
# Without a file system of its own, a task's workspace is a folder in its home, which is then one of the attempt.
# In a user namespace of one user rsync may not change groups, which it would as root: there it is a plain user.
_SCRIPT = f"""
command -v rsync >/dev/null 2>&1 || exit {_NO_RSYNC}
case "$OSMO_OUTPUT" in
/osmo/*) place={WORKSPACE} ;;
*) place=$HOME/workspace ;;
esac
mkdir -p "$place" || exit 1
umask 077
file=$(mktemp "${{TMPDIR:-/tmp}}/osmo-rsyncd.XXXXXX") || exit 1
trap 'rm -f "$file"' EXIT
cat > "$file" <<TEXT
use chroot = no
munge symlinks = no
uid = $(id -u)
gid = $(id -g)
log file = /dev/null
[osmo]
path = $place
read only = no
list = yes
TEXT
umask 022
as=
[ "$(cat /proc/self/setgroups 2>/dev/null)" = deny ] && as="unshare --user --map-user=1000 --map-group=1000 --"
$as rsync --server --daemon --config="$file" .
"""
DAEMON = ("sh", "-c", _SCRIPT)


def missing(code: int | None) -> str:
    """Why there was no daemon, when there was none."""
    if code != _NO_RSYNC:
        return ""
    return "the task has no program rsync: install it on its node, or in its image"
