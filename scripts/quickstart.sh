#!/usr/bin/env bash
# What `make run` does: platform up, quickstart workflow, its result. The platform stays up afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."
osmo=.venv/bin/osmo

"$osmo" up
echo
id_file="$(mktemp)"
folder="$(mktemp -d)"
trap 'rm -rf "$id_file" "$folder"' EXIT
"$osmo" run examples/quickstart/workflow.yaml --id-file "$id_file"
id="$(cat "$id_file")"
"$osmo" workflow download "$id/report" "$folder" >/dev/null
echo
echo "$id wrote report.txt:"
sed 's/^/  /' "$folder/report.txt"
echo
"$osmo" status
echo
echo "next: $osmo workflow list     $osmo workflow logs $id     make stop"
