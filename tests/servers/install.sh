#!/bin/sh
# Installs servers that tests need, below OSMO_TOOLS, keyed by version: `tests/servers/install.sh azurite`.
# Repeating it does nothing. Tests find the version below, so both change together.
set -eu

TOOLS="${OSMO_TOOLS:-$HOME/.cache/osmo-ray/tools}"
AZURITE=3.37.0

azurite() {
    folder="$TOOLS/azurite-$AZURITE"
    if [ -x "$folder/node_modules/.bin/azurite-blob" ]; then
        return
    fi
    if ! command -v npm >/dev/null; then
        echo "azurite needs npm (Debian: apt-get install npm)" >&2
        exit 1
    fi
    mkdir -p "$folder"
    npm install --prefix "$folder" --no-audit --no-fund --ignore-scripts "azurite@$AZURITE"
}

for name in "$@"; do
    case "$name" in
    azurite) azurite ;;
    *)
        echo "unknown server '$name'; known: azurite" >&2
        exit 1
        ;;
    esac
done
