#!/bin/bash
# Writes the documentation of a project's tasks: fetches the branch, lets the agent work, and opens a pull request to that branch.
set -euo pipefail
source /task-files/common.sh
trap tell_outcome EXIT
rm -f "$state/pull-request" "$state/branch" "$state/claude.jsonl" "$state/failed"

needs_program git
needs_program claude
needs_file /task-files/CLAUDE.md
needs_file /task-files/prompt.md
needs_file /task-files/hooks-stop-pr-creation.sh
needs_file /etc/claude-code/managed-settings.json

open_access "$REPOSITORY_URL"
reaches "$REPOSITORY_URL"
target=/workspace/target-repo
rm -rf "$target"
git clone --quiet --depth 1 --branch "$SOURCE_BRANCH" "$REPOSITORY_URL" "$target" || fail "cannot clone $REPOSITORY_URL at $SOURCE_BRANCH"
cd "$target"
[ -d "$WORKING_DIRECTORY" ] || fail "the repository has no directory $WORKING_DIRECTORY"
cd "$WORKING_DIRECTORY"
needs_file .taskmaster/tasks/tasks.json
printf '%s\n' CLAUDE.md toolman-catalog.md >>"$target/.git/info/exclude"
cp /task-files/CLAUDE.md CLAUDE.md
if [ -s /task-files/toolman-catalog.md ]; then cp /task-files/toolman-catalog.md toolman-catalog.md; fi

code=0
claude -p --output-format stream-json --verbose --model "$MODEL" </task-files/prompt.md | tee "$state/claude.jsonl" || code=$?
if [ "$code" != 0 ]; then
  message="the agent ended with $code"
  exit "$code"
fi
bash /task-files/hooks-stop-pr-creation.sh
