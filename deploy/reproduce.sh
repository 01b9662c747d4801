#!/usr/bin/env bash
# Builds the last commit twice, as two machines would, and compares the bytes.
#
#   deploy/reproduce.sh [--results FILE] [BINARY...]
#
# The second build differs in all that must not matter: folder, CARGO_HOME, HOME, time zone, locale, umask, user name, and flags in the
# environment. Crates are the same downloads, by the digests of Cargo.lock. Without names it takes mindos-sidecar; each binary is
# compiled twice from nothing with link-time optimisation, which is why this is no stage of .ci/run.
set -euo pipefail
cd "$(dirname "$0")/.."

results=
if [[ ${1-} == --results ]]; then
    results=$(realpath -m "$2")
    shift 2
fi
binaries=("$@")
((${#binaries[@]} > 0)) || binaries=(mindos-sidecar)

work=$(mktemp -d "${TMPDIR:-/tmp}/mindos-reproduce-XXXXXX")
trap 'rm -rf "$work"' EXIT
epoch=$(git log -1 --format=%ct)
crates=${CARGO_HOME:-$HOME/.cargo}
rustup=${RUSTUP_HOME:-$HOME/.rustup}
first=$work/a
second=$work/somewhere/else/entirely/mindos-source
mkdir -p "$first" "$second" "$work/home" "$work/cargo"
git archive HEAD | tar -x -C "$first"
git archive HEAD | tar -x -C "$second"
# What there is of it: the registry, and whatever else says where crates come from.
for part in "$crates"/*; do
    ln -s "$part" "$work/cargo/"
done
began=$SECONDS

env -u CARGO_TARGET_DIR CARGO_HOME="$crates" SOURCE_DATE_EPOCH="$epoch" "$first/deploy/build.sh" --out "$first/shipped" "${binaries[@]}"
(
    umask 077
    env -u CARGO_TARGET_DIR CARGO_HOME="$work/cargo" RUSTUP_HOME="$rustup" HOME="$work/home" USER=somebody LOGNAME=somebody \
        TZ=Pacific/Auckland LANG=C.UTF-8 RUSTFLAGS='-C target-cpu=native' CFLAGS='-O1 -g' SOURCE_DATE_EPOCH="$epoch" \
        "$second/deploy/build.sh" --out "$second/shipped" "${binaries[@]}"
)

different=0
rows=()
for binary in "${binaries[@]}"; do
    digest=$(sha256sum <"$first/shipped/$binary" | cut -d' ' -f1)
    other=$(sha256sum <"$second/shipped/$binary" | cut -d' ' -f1)
    size=$(stat -c %s "$first/shipped/$binary")
    if [[ $digest == "$other" ]]; then
        printf 'same: %s %s, %d bytes\n' "$binary" "$digest" "$size"
    else
        different=1
        printf 'DIFFERENT: %s %s and %s, %d bytes differ\n' "$binary" "$digest" "$other" \
            "$(cmp -l "$first/shipped/$binary" "$second/shipped/$binary" 2>/dev/null | wc -l)"
    fi
    # Paths of this machine would tell of it, and differ elsewhere.
    if grep -aqF -e "$work" -e "$crates/registry" "$first/shipped/$binary"; then
        different=1
        printf 'PATHS: %s holds paths of this machine\n' "$binary"
    fi
    rows+=("$(printf '{"binary": "%s", "sha256": "%s", "again": "%s", "bytes": %d}' "$binary" "$digest" "$other" "$size")")
done
if [[ -n $results ]]; then
    {
        printf '{\n  "command": "deploy/reproduce.sh %s",\n' "${binaries[*]}"
        printf '  "commit": "%s",\n' "$(git rev-parse HEAD)"
        printf '  "toolchain": "%s",\n' "$(paste -sd'|' "$first/shipped/TOOLCHAIN" | sed 's/|/; /g')"
        printf '  "builds": [\n    %s\n  ],\n' "$(printf '%s\n' "${rows[@]}" | paste -sd'|' | sed 's/|/,\n    /g')"
        printf '  "seconds": %d\n}\n' $((SECONDS - began))
    } >"$results"
fi
exit "$different"
