#!/bin/sh
# Checks the .proto files: lint, format, and nothing that would break a peer of an earlier release.
#
#   proto/check.sh            runs the checks
#   proto/check.sh release V  writes proto/release/V.binpb, such as V = v0.1.0, for the checks of the releases after it
#
# Takes `buf` from the PATH, else from npm by npx. Needs no network when `buf` is there.
set -eu
cd "$(dirname "$0")/.."

if command -v buf >/dev/null 2>&1; then
    run() { buf "$@"; }
else
    run() { npx --yes --package=@bufbuild/buf@1.75.0 -- buf "$@"; }
fi

if [ "${1:-}" = release ]; then
    run build --exclude-source-info -o "proto/release/${2:?name the release, such as v0.1.0}.binpb"
    exit
fi

run lint
run format --diff --exit-code
# A release is read by all that follow, so each is compared and not just the newest.
for release in proto/release/*.binpb; do
    [ -e "$release" ] || continue
    run breaking --against "$release"
done
