#!/bin/bash
# Applies each patch of this folder to a copy of the tree, by itself, and runs the simulator and the stories on it until one
# of them objects. Prints the seeds each took and writes tests/results/mutants.json. Fails when a mutant lives.
#
# SEEDS (default 300) bounds the seeds of a mutant; a run that hangs for TIMEOUT seconds (default 600) counts as caught. ONLY
# takes one mutant by name, AFTER those behind one; both leave the results file as it is.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
seeds=${SEEDS:-300}
limit=${TIMEOUT:-600}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
trap 'exit 1' INT TERM
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}/mutants"
# Quick to build, and quick enough to run. Files are dated at the copy (tar -m), or cargo would take a mutant of before for fresh.
export CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=false CARGO_INCREMENTAL=1

(cd "$root" && git ls-files -z --cached --others --exclude-standard | grep -zv -e '^tests/data/' -e '^tests/results/' |
    while IFS= read -r -d '' file; do if [ -f "$file" ]; then printf '%s\0' "$file"; fi; done |
    tar --null -T - -cf -) | tar -xmf - -C "$copy"
cd "$copy"
build() { cargo build -q -p mindos-sim --bin sim 2> "$copy/build.log"; }
sim="$CARGO_TARGET_DIR/debug/sim"

build || { cat "$copy/build.log"; exit 1; }
"$sim" --stories tests/scenarios
"$sim" --seeds 50 --stop > /dev/null || { echo "the tree itself fails"; exit 1; }

results=""
alive=0
for patch in "$here"/${ONLY:-*}.patch; do
    name=$(basename "$patch" .patch)
    if [ -n "${AFTER:-}" ] && [[ ! $name > $AFTER ]]; then
        continue
    fi
    # As they were, to the letter: a patch taken back by a second one may miss its place.
    touched=$(sed -n 's,^+++ b/,,p' "$patch")
    # shellcheck disable=SC2086
    tar -cf "$copy/before.tar" $touched
    patch -s -p1 --no-backup-if-mismatch < "$patch"
    if ! build; then
        echo "$name: does not build"
        cat "$copy/build.log"
        exit 1
    fi
    set +e
    stories=$(timeout "$limit" "$sim" --stories tests/scenarios | sed 's/^\([0-9]*\) of.*/\1/')
    output=$(timeout "$limit" "$sim" --seeds "$seeds" --threads 1 --stop --scripts "$copy" 2> /dev/null)
    code=$?
    set -e
    seed=$(printf '%s\n' "$output" | sed -n 's/^FAILED seed \([0-9]*\): .*/\1/p' | head -n 1)
    broken=$(printf '%s\n' "$output" | sed -n 's/^FAILED seed [0-9]*: \([a-z_]*\).*/\1/p' | head -n 1)
    [ "$code" = 124 ] && broken=hang
    took=null
    [ -n "$seed" ] && took=$((seed + 1))
    by=simulator
    [ -z "$broken" ] && by=stories
    if [ -z "$broken" ] && [ "${stories:-0}" = 0 ]; then
        by=nobody
        alive=$((alive + 1))
    fi
    echo "$name: caught by $by${broken:+ ($broken)}, seeds: $took, stories: ${stories:-hang}"
    results="$results${results:+,
}    {\"mutant\": \"$name\", \"caught_by\": \"$by\", \"invariant\": \"$broken\", \"seeds\": $took, \"stories\": ${stories:-null}}"
    tar -xmf "$copy/before.tar"
done
if [ -z "${ONLY:-}${AFTER:-}" ]; then
    mkdir -p "$root/tests/results"
    printf '{\n  "seeds_max": %s,\n  "alive": %s,\n  "mutants": [\n%s\n  ]\n}\n' "$seeds" "$alive" "$results" > "$root/tests/results/mutants.json"
fi
echo "$alive mutants live"
[ "$alive" = 0 ]
