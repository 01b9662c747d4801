#!/usr/bin/env bash
# A real Kubernetes API server for tests, on a plain Debian: kube-apiserver, kube-controller-manager and kube-scheduler built from
# Debian's source package `kubernetes` with Debian's Go, and a kubectl that knows kustomize.
#
#   .ci/kube/build.sh CACHE_DIR        prints the folder that holds the four
#
# They are built once and kept under the version of the source; a second call does nothing. Cold: 60 MB to fetch, 7 to 15 minutes of two
# processors, 2.3 GB of room in $TMPDIR while it lasts. Where KUBEBUILDER_ASSETS names a folder that has all of them (setup-envtest fills it
# with kube-apiserver, etcd and kubectl; kube-controller-manager and kube-scheduler of that version are to be put beside them), nothing is built.
# Nothing is changed in the machine's own list of sources; packages that lack are installed (Go, etcd, gcc, make, dpkg-dev, openssl).
set -euo pipefail

(($# == 1)) || {
    echo "usage: $0 CACHE_DIR" >&2
    exit 2
}
cache=$1
version=1.20.5+really1.20.2-1.1+deb12u1
programs=(kube-apiserver kube-controller-manager kube-scheduler)
said() {
    printf '%s\n' "$*" >&2
}

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

if [[ -n ${KUBEBUILDER_ASSETS:-} ]]; then
    complete=yes
    for program in "${programs[@]}" etcd kubectl; do
        [[ -x $KUBEBUILDER_ASSETS/$program ]] || {
            complete=
            said "KUBEBUILDER_ASSETS: $KUBEBUILDER_ASSETS has no $program: built from Debian's source instead"
            break
        }
    done
    if [[ -n $complete ]]; then
        printf '%s\n' "$KUBEBUILDER_ASSETS"
        exit
    fi
fi

# Raised with every change of how they are built.
revision=1
assets=$cache/kube-$version-$revision
# One at a time: whoever comes second finds it done.
exec 9>"$cache/kube.lock"
flock 9
if [[ -e $assets/whole ]]; then
    printf '%s\n' "$assets"
    exit
fi
rm -rf "$assets"
mkdir -p "$assets"

# What the machine lacks. etcd comes as a service, which is not to run here.
missing=()
command -v etcd >/dev/null || missing+=(etcd-server)
[[ -x /usr/lib/go-1.19/bin/go ]] || missing+=(golang-1.19-go)
[[ -d /usr/share/gocode/src/github.com/modern-go/reflect2 ]] || missing+=(golang-github-modern-go-reflect2-dev)
for tool in gcc make rsync jq openssl; do
    command -v $tool >/dev/null || missing+=($tool)
done
command -v dpkg-source >/dev/null || missing+=(dpkg-dev)
if ((${#missing[@]} > 0)); then
    said "installs ${missing[*]}"
    {
        apt-get update
        apt-get install -y --no-install-recommends "${missing[@]}"
        if [[ -d /run/systemd/system && " ${missing[*]} " == *' etcd-server '* ]]; then
            systemctl disable --now etcd
        fi
    } >&2
fi

tree=$(mktemp -d "${TMPDIR:-/tmp}/kube-build.XXXXXX")
# Go makes the folders of its modules read-only.
trap 'chmod -R u+w "$tree" 2>/dev/null || true; rm -rf "$tree"' EXIT

# apt with a list of sources of its own, so that the machine's stays as it is.
own() {
    local suite=$1
    shift
    mkdir -p "$tree/$suite/lists/partial" "$tree/$suite/parts"
    local release keys=/usr/share/keyrings/debian-archive-keyring.gpg
    {
        for release in deb deb-src; do
            printf '%s [signed-by=%s] http://deb.debian.org/debian %s main\n' $release $keys "$suite"
        done
        if [[ $suite == bookworm ]]; then
            printf 'deb-src [signed-by=%s] http://deb.debian.org/debian-security bookworm-security main\n' $keys
        fi
    } >"$tree/$suite/sources.list"
    apt-get -o Dir::Etc::sourcelist="$tree/$suite/sources.list" -o Dir::Etc::sourceparts="$tree/$suite/parts" \
        -o Dir::State::lists="$tree/$suite/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o APT::Sandbox::User=root "$@" >&2
}

(
    cd "$tree"
    # Debian 12's own kubectl is of 2021 too, and its kustomize of 2019: the next Debian's runs here as well.
    own trixie update
    own trixie download kubectl/trixie
    dpkg-deb -x kubectl_*.deb client
    cp client/usr/bin/kubectl "$assets/"

    own bookworm update
    own bookworm source --download-only "kubernetes=$version"
    dpkg-source -x kubernetes_*.dsc k >&2
    cd k
    # The vendored one does not stand Go of 1.18 and later: the server dies on the first custom resource.
    rm -f vendor/github.com/modern-go/reflect2/*.go
    cp /usr/share/gocode/src/github.com/modern-go/reflect2/*.{go,s} vendor/github.com/modern-go/reflect2/
    mkdir -p .go/src/k8s.io
    ln -sfn ../../.. .go/src/k8s.io/kubernetes
    printf '%s\n' KUBE_GIT_COMMIT=faecb196815e248d3ecfb03c680a4507229c2a56 KUBE_GIT_TREE_STATE=archive \
        KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20 >kver
    env GOPATH="$PWD/.go" PATH="/usr/lib/go-1.19/bin:$PATH" CGO_ENABLED=0 HOME="$PWD" KUBE_GIT_VERSION_FILE="$PWD/kver" GOFLAGS= \
        KUBE_BUILD_PLATFORMS="linux/$(dpkg --print-architecture)" \
        nice -n 10 make WHAT="${programs[*]/#/cmd/}" >&2
    for program in "${programs[@]}"; do
        cp "_output/bin/$program" "$assets/"
    done
)
ln -s "$(command -v etcd)" "$assets/etcd"
"$assets/kubectl" version --client >&2
"$assets/kube-apiserver" --version >&2
touch "$assets/whole"
printf '%s\n' "$assets"
