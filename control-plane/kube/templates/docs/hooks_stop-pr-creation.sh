#!/bin/bash
# Commits what changed below `.taskmaster/docs/`, pushes it on a branch of its own and opens a pull request to the source branch.
set -euo pipefail
source /task-files/common.sh
cd "/workspace/target-repo/$WORKING_DIRECTORY"
if [ -z "$(git status --porcelain -- .taskmaster/docs)" ]; then
  say "nothing was written below .taskmaster/docs: no pull request"
  exit 0
fi
# The same for a second call in one run.
branch="$(cat "$state/branch" 2>/dev/null || true)"
if [ -z "$branch" ]; then
  branch="docs-generation-$(date -u +%Y%m%d-%H%M%S)"
  printf '%s\n' "$branch" >"$state/branch"
fi
git checkout --quiet -B "$branch"
git add --all -- .taskmaster/docs
git commit --quiet -m "docs: auto-generate Task Master documentation"
git push --quiet --set-upstream origin "$branch" || fail "cannot push $branch"
say "pushed $branch at $(git rev-parse --short HEAD)"
body="$state/pull-request-body.md"
printf 'Documentation of the tasks in `%s`, written by %s.\n' "$WORKING_DIRECTORY" "$MODEL" >"$body"
pull_request "$branch" "$SOURCE_BRANCH" "docs: auto-generate Task Master documentation" "$body"
