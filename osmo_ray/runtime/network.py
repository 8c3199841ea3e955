"""The tasks' network of one node: a network namespace with a bridge, in which every attempt gets an address.

A holder process keeps the namespace (and, for an ordinary user, the user namespace that owns it). Supervisors hold it
open too, so that tasks keep their network when the holder is killed, and the next holder goes back into it. The way
out is `pasta`: it carries connections through ordinary sockets of this host, never to the host's loopback.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from osmo_ray.runtime import syscalls as sys
from osmo_ray.runtime.netlink import Netlink, allow_ping, own_namespace
from osmo_ray.runtime.options import Options
from osmo_ray.runtime.process import Identity
from osmo_ray.runtime.spool import Spool, read_json, replace_file

BRIDGE, OUT = "osmo0", "out"
# Every supervisor has the network namespace open under this number.
KEPT_FD = 200
# The link between the tasks' network and pasta; an address range for benchmarks that nobody routes.
_NEAR, _FAR = "198.18.77.2", "198.18.77.1"
_IDLE_LIMIT = 300.0
_RULES = f"""
table ip osmo {{
  chain out {{ type nat hook postrouting priority 100; oifname "{OUT}" masquerade; }}
  chain through {{ type filter hook forward priority 0; iifname "{BRIDGE}" ip daddr {{ 127.0.0.0/8, {_FAR} }} drop; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Network:
    """What the holder wrote: who it is, the bridge's address, and whether there is a way out (else why not)."""

    holder: Identity
    gateway: str
    prefix: int
    out: bool
    why: str
    user: bool

    @staticmethod
    def load(root: Path) -> Network | None:
        value = read_json(root / "net.json")
        if value is None:
            return None
        return Network(
            Identity.from_json(value["holder"]), value["gateway"], value["prefix"], value["out"], value["why"],
            value["user"],
        )  # fmt: skip

    def open(self) -> tuple[int, int | None]:
        """Files on the network namespace and, for an ordinary user, the user namespace. OSError when gone."""
        net = os.open(f"/proc/{self.holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        user = os.open(f"/proc/{self.holder.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC) if self.user else None
        if not self.holder.alive():
            raise ProcessLookupError(f"the holder of the tasks' network (pid {self.holder.pid}) is gone")
        return net, user


def addresses(options: Options) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(options.network)


def free_address(options: Options, used: set[str], after: int) -> tuple[str, int]:
    """The next address that nobody has, going round so that an address rests before it is used again; the second
    value is the next `after`. Raises RuntimeError when all are taken."""
    network = addresses(options)
    count = network.num_addresses - 3
    for step in range(count):
        number = (after + step) % count
        address = str(network[number + 2])
        if address not in used:
            return address, number + 1
    raise RuntimeError(f"all {count} addresses of {options.network} are taken")


# --- the holder ------------------------------------------------------------------------------------------------


def hold(root: Path, keepers: list[int], node_only: bool) -> None:
    """The holder's life: take or make the namespaces, say so in `net.json`, stay while a controller may come.

    `keepers` are supervisors that have the last holder's network open."""
    options = Options.load(root / "options.json")
    user = os.geteuid() != 0
    why = ""
    if not _go_back(keepers, user=user):
        if user:
            become_root_of_own()
        if not node_only:
            why = _build(options)
    gateway = str(addresses(options)[1])
    prefix = addresses(options).prefixlen
    value = {"holder": Identity.mine().to_json(), "gateway": "" if node_only else gateway, "prefix": prefix}
    replace_file(root / "net.json", json.dumps(value | {"out": not why, "why": why, "user": user}))
    spool = Spool(root)
    while root.exists() and spool.lease_left() > -_IDLE_LIMIT:
        time.sleep(5.0)
    carrier = read_json(root / "out.json") if root.exists() else None
    if carrier is not None:
        Identity.from_json(carrier).signal(signal.SIGTERM)


def become_root_of_own() -> None:
    """A user namespace in which this user is root, and nobody else exists."""
    uid, gid = os.geteuid(), os.getegid()
    sys.unshare(sys.CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def _go_back(keepers: list[int], *, user: bool) -> bool:
    for pid in keepers:
        try:
            net = os.open(f"/proc/{pid}/fd/{KEPT_FD}", os.O_RDONLY | os.O_CLOEXEC)
            if user:
                sys.setns(os.open(f"/proc/{pid}/fd/{KEPT_FD + 1}", os.O_RDONLY | os.O_CLOEXEC), sys.CLONE_NEWUSER)
            sys.setns(net, sys.CLONE_NEWNET)
        except OSError:
            continue
        return True
    return False


def _build(options: Options) -> str:
    """Bridge, addresses, forwarding, masquerade. Returns why there can be no way out, or nothing."""
    sys.unshare(sys.CLONE_NEWNET)
    link = Netlink()
    link.up(link.index("lo"))
    link.bridge(BRIDGE)
    bridge = link.index(BRIDGE)
    network = addresses(options)
    link.address(bridge, str(network[1]), network.prefixlen)
    link.up(bridge)
    link.close()
    if not options.way_out:
        return "switched off by option"
    return _masquerade()


def _masquerade() -> str:
    try:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    except OSError as error:
        return f"forwarding cannot be switched on: {error}"
    tool = find_tool("nft")
    if tool is None:
        return "the program nft is not on this host (package nftables)"
    done = subprocess.run([tool, "-f", "-"], input=_RULES.encode(), capture_output=True, check=False)
    return "" if done.returncode == 0 else f"nft refused: {done.stderr.decode(errors='replace').strip()[:200]}"


def find_tool(name: str) -> str | None:
    """A program of the system, also where an ordinary user's PATH leaves out the sbin folders."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


# --- the way out ------------------------------------------------------------------------------------------------


def carry(root: Path) -> None:
    """Become pasta, attached to the tasks' network. Runs in the host's network, in a process of its own."""
    net = Network.load(root)
    tool = find_tool("pasta")
    if net is None or tool is None:
        raise SystemExit("no network to attach to, or no pasta")
    place = f"/proc/{net.holder.pid}/ns/net"
    argv = [
        tool, "--foreground", "--quiet", "--ipv4-only", "--no-map-gw", "--config-net",
        "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
        "--address", _NEAR, "--netmask", "24", "--gateway", _FAR, "--ns-ifname", OUT, "--mtu", "1500",
    ]  # fmt: skip
    if net.user:
        argv += ["--userns", f"/proc/{net.holder.pid}/ns/user", "--netns", place]
    else:
        # pasta gives up its rights before it looks into /proc of another process, so the namespace gets a file.
        sys.unshare(sys.CLONE_NEWNS)
        sys.mount("", "/", flags=sys.MS_REC | sys.MS_PRIVATE)
        file = root / "netns"
        file.touch()
        sys.bind(place, str(file), recursive=False)
        argv += ["--runas", "0", "--netns", str(file)]
    for number in (signal.SIGPIPE, signal.SIGCHLD):  # pasta takes an ignored SIGPIPE for an error
        signal.signal(number, signal.SIG_DFL)
    os.execv(tool, argv)  # noqa: S606 - no shell is the point


def out_is_up(net: Network) -> bool:
    """Whether pasta's link stands in the tasks' network."""
    try:
        return any(line.startswith(f"{OUT}:") for line in _links(net.holder.pid))
    except OSError:
        return False


def _links(pid: int) -> list[str]:
    return [line.strip() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()]


# --- one attempt --------------------------------------------------------------------------------------------------


def join(net: Network, holder: int, address: str, *, generation: int) -> None:
    """From a new, empty network namespace: be connected to the bridge under `address`, with a way to the others.

    `holder` is an open file on the tasks' network namespace."""
    mine = own_namespace("net")
    sys.setns(holder, sys.CLONE_NEWNET)
    name = f"t{int(ipaddress.IPv4Address(address)):08x}"
    link = Netlink()
    if generation:
        _forget(link, f"{name}x{(generation - 1) % 2}")
    _forget(link, f"{name}x{generation % 2}")
    link.veth(f"{name}x{generation % 2}", link.index(BRIDGE), "eth0", mine)
    link.close()
    sys.setns(mine, sys.CLONE_NEWNET)
    os.close(mine)
    here = Netlink()
    here.up(here.index("lo"))
    eth = here.index("eth0")
    here.address(eth, address, net.prefix)
    here.up(eth)
    here.default_route(eth, net.gateway)
    here.close()
    allow_ping()


def _forget(link: Netlink, name: str) -> None:
    try:
        link.delete(name)
    except OSError:
        pass


def resolv_conf(net: Network | None, *, private: bool) -> str:
    """The name servers that the task can reach: the host's own, except those on its loopback."""
    if private and (net is None or not net.out):
        return "# this task's network has no way out\n"
    for place in ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"):
        try:
            lines = Path(place).read_text().splitlines()
        except OSError:
            continue
        good = [line for line in lines if not (private and line.split()[:1] == ["nameserver"] and _loopback(line))]
        if any(line.startswith("nameserver") for line in good):
            return "\n".join(good) + "\n"
    return ""


def _loopback(line: str) -> bool:
    address = [*line.split(), "", ""][1]
    return address.startswith("127.") or address == "::1"
