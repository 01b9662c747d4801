#!/usr/bin/env bash
# Builds release binaries so that one source gives the same bytes on every machine and in every folder.
#
#   deploy/build.sh [--out DIR] [--target TRIPLE] [--features LIST] BINARY...
#
# BINARY is one of mindos, mindos-control-plane, mindos-sidecar, mindos-cluster-agent, mindos-general. Each is written to DIR (target/shipped unless said
# otherwise) with SHA256SUMS and TOOLCHAIN beside it: the digests hold for that compiler, linker and target alone.
#
# What makes the bytes the same: the lock file as it is; one invocation for each binary, so that features are its own; no path of the
# machine in panic messages, debug information or C's __FILE__; no flags of the caller's environment; no incremental state; the time of
# the last commit wherever a tool would write the present one. `deploy/reproduce.sh` builds twice and compares.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

usage() {
    printf 'error: %s\n\n' "$1" >&2
    sed -n '2,7s/^# \{0,1\}//p' deploy/build.sh >&2
    exit 2
}

out=target/shipped
target=
features=
binaries=()
while (($# > 0)); do
    case $1 in
        --out | --target | --features)
            (($# > 1)) || usage "$1 needs a value"
            case $1 in
                --out) out=$2 ;;
                --target) target=$2 ;;
                --features) features=$2 ;;
            esac
            shift 2
            ;;
        -*) usage "unknown option $1" ;;
        *)
            binaries+=("$1")
            shift
            ;;
    esac
done
((${#binaries[@]} > 0)) || usage 'no binary is named'

package_of() {
    case $1 in
        mindos | mindos-control-plane | mindos-cluster-agent) printf '%s\n' "$1" ;;
        mindos-sidecar) printf 'mindos-agent-sidecar\n' ;;
        mindos-general) printf 'mindos-generals\n' ;;
        *) usage "there is no binary $1: expected mindos, mindos-control-plane, mindos-sidecar, mindos-cluster-agent or mindos-general" ;;
    esac
}
for binary in "${binaries[@]}"; do
    package_of "$binary" >/dev/null
done

# The compiler that digests are published for. Another one works, with digests of its own.
host=$(rustc -vV | sed -n 's/^host: //p')
commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
target=${target:-$host}
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || true)}"
[[ $SOURCE_DATE_EPOCH =~ ^[0-9]+$ ]] || usage 'outside of a git checkout SOURCE_DATE_EPOCH has to be set, in seconds since 1970'

cargo_home=${CARGO_HOME:-$HOME/.cargo}
build_dir=$(realpath -m "${CARGO_TARGET_DIR:-target}")
remaps=(
    "$root=/mindos"
    "$cargo_home=/cargo"
    "$build_dir=/mindos/target"
    # Where the component rust-src is installed, paths of the standard library would be those of this machine.
    "$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc/$commit"
)
rust_flags=()
c_flags=
for remap in "${remaps[@]}"; do
    [[ $remap != *[[:space:]]* ]] || usage "a path with a space in it does not reach the C compiler whole: ${remap%%=*}"
    rust_flags+=("--remap-path-prefix=$remap")
    c_flags+="${c_flags:+ }-ffile-prefix-map=$remap"
done

# Flags from outside would be part of the result.
while IFS='=' read -r name _; do
    case $name in
        RUSTFLAGS | RUSTDOCFLAGS | RUSTC_WRAPPER | RUSTC_WORKSPACE_WRAPPER | CFLAGS* | CXXFLAGS* | CPPFLAGS | LDFLAGS) unset "$name" ;;
        CARGO_ENCODED_RUSTFLAGS | CARGO_PROFILE_* | CARGO_BUILD_* | CARGO_TARGET_*_RUSTFLAGS) unset "$name" ;;
    esac
done < <(env)
CARGO_ENCODED_RUSTFLAGS=$(printf '%s\037' "${rust_flags[@]}")
export CARGO_ENCODED_RUSTFLAGS=${CARGO_ENCODED_RUSTFLAGS%$'\037'}
export CFLAGS=$c_flags
export CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022

mkdir -p "$out"
for binary in "${binaries[@]}"; do
    cargo build --locked --profile dist --target "$target" -p "$(package_of "$binary")" --bin "$binary" ${features:+--features "$features"}
    install -m 0755 "$build_dir/$target/dist/$binary" "$out/$binary"
done

{
    rustc --version
    printf 'target %s\n' "$target"
    printf 'features %s\n' "${features:-default}"
    cc --version | head -n 1
    ld --version | head -n 1
    printf 'source of %s\n' "$(TZ=UTC date -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)"
} >"$out/TOOLCHAIN"
# Of all that lie there, so that a second call adds to them.
(cd "$out" && find . -maxdepth 1 -name 'mindos*' -type f -printf '%f\n' | sort | xargs sha256sum >SHA256SUMS)
cat "$out/SHA256SUMS"
