#!/bin/bash
# Commits what the agent left, pushes its branch and opens a pull request. Repeated it changes nothing.
set -euo pipefail
source /task-files/common.sh
cd /workspace/target-repo
feature="${FEATURE_BRANCH:-feature/task-$TASK_ID-implementation}"
[ "$(git symbolic-ref --quiet --short HEAD || true)" = "$feature" ] || fail "the agent left the branch $feature"
git add --all
if ! git diff --cached --quiet; then git commit --quiet -m "feat($SERVICE_NAME): implement task $TASK_ID"; fi
if [ "$(git rev-list --count "origin/$BRANCH..HEAD")" = 0 ]; then
  say "nothing was changed: no pull request"
  exit 0
fi
git push --quiet --set-upstream origin "$feature" || fail "cannot push $feature"
say "pushed $feature at $(git rev-parse --short HEAD)"
body="$state/pull-request-body.md"
{
  printf 'Implements task %s of %s (context %s).\n\n' "$TASK_ID" "$SERVICE_NAME" "$CONTEXT_VERSION"
  git log --format='- %s' "origin/$BRANCH..HEAD" | head -n 50
} >"$body"
pull_request "$feature" "$BRANCH" "feat($SERVICE_NAME): implement task $TASK_ID" "$body"
