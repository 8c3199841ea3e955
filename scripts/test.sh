#!/usr/bin/env bash
# Tests that pass on any fresh Linux machine, without root and without servers of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
"$(cd .venv && pwd -P)/bin/python" -m pytest -q -m "not postgres and not servers and not root and not container and not kubernetes" "$@"
cat <<'TEXT'

left out here: PostgreSQL, azurite, podman containers, Kubernetes, hosts in network namespaces
they run with: make test-servers   (installs Debian packages and npm tools; needs root)
TEXT
