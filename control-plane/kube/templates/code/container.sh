#!/bin/bash
# One attempt at a task: fetches the code and what is to be done, lets the agent work, commits, pushes and opens a pull request.
set -euo pipefail
source /task-files/common.sh
trap tell_outcome EXIT
rm -f "$state/pull-request" "$state/branch" "$state/claude.jsonl" "$state/failed"

needs_program git
needs_program claude
needs_file /task-files/CLAUDE.md
needs_file /task-files/prompt.md
needs_file /task-files/mcp.json
needs_file /task-files/hooks-stop-pr-creation.sh
needs_file /etc/claude-code/managed-settings.json

open_access "$REPOSITORY_URL" "$DOCS_REPOSITORY_URL"
reaches "$REPOSITORY_URL"
reaches "$DOCS_REPOSITORY_URL"

target=/workspace/target-repo
docs=/workspace/docs-repo
feature="feature/task-$TASK_ID-implementation"
printf '%s\n' "$feature" >"$state/branch"

# Of an earlier run of another repository, or unwanted.
if [ -d "$target/.git" ] && [ "$(git -C "$target" config --get remote.origin.url)" != "$REPOSITORY_URL" ]; then rm -rf "$target"; fi
if [ "$FRESH_WORKSPACE" = true ] && [ "$ATTEMPTS" = 0 ]; then rm -rf "$target"; fi
if [ -d "$target/.git" ]; then
  say "reusing the clone"
  rm -f "$target/.git/index.lock"
  git -C "$target" fetch --quiet --prune origin
else
  rm -rf "$target"
  git clone --quiet "$REPOSITORY_URL" "$target" || fail "cannot clone $REPOSITORY_URL"
fi
[ -d "$target/.git" ] || fail "$target is no clone"

cd "$target"
git rev-parse --quiet --verify "origin/$BRANCH" >/dev/null || fail "$REPOSITORY_URL has no branch $BRANCH"
current="$(git symbolic-ref --quiet --short HEAD || true)"
if [ "$current" != "$feature" ]; then
  # What another task left behind is not this one's.
  git reset --quiet --hard
  git clean --quiet -fd
  if git rev-parse --quiet --verify "refs/heads/$feature" >/dev/null; then
    git checkout --quiet "$feature"
  elif git rev-parse --quiet --verify "origin/$feature" >/dev/null; then
    git checkout --quiet -B "$feature" "origin/$feature"
  else
    git checkout --quiet --no-track -B "$feature" "origin/$BRANCH"
  fi
fi
conflict=""
if [ -z "$(git status --porcelain --untracked-files=no)" ] && ! git merge --quiet --no-edit "origin/$BRANCH" >/dev/null 2>&1; then
  git merge --abort || true
  conflict=yes
  say "origin/$BRANCH does not merge cleanly: left to the agent"
fi

if [ "$DOCS_REPOSITORY_URL" = "$REPOSITORY_URL" ]; then
  say "code and documentation are one repository"
  git worktree prune
  rm -rf "$docs"
  git worktree add --quiet --force --detach "$docs" "origin/$DOCS_BRANCH" || fail "$DOCS_REPOSITORY_URL has no branch $DOCS_BRANCH"
else
  rm -rf "$docs"
  git clone --quiet --depth 1 --branch "$DOCS_BRANCH" "$DOCS_REPOSITORY_URL" "$docs" || fail "cannot clone $DOCS_REPOSITORY_URL at $DOCS_BRANCH"
fi

work="$target/$WORKING_DIRECTORY"
mkdir -p "$work/task"
cd "$work"
for ours in task/ CLAUDE.md .mcp.json; do
  grep -qxF "$ours" "$target/.git/info/exclude" 2>/dev/null || printf '%s\n' "$ours" >>"$target/.git/info/exclude"
done
described="$docs/$DOCS_PROJECT_DIRECTORY/.taskmaster/docs"
for name in task.md acceptance-criteria.md prompt.md; do
  if [ -f "$described/task-$TASK_ID/$name" ]; then cp "$described/task-$TASK_ID/$name" "task/$name"; fi
done
for place in "$described/architecture.md" "$described/task-$TASK_ID/toolman-config.json" "$described/task-$TASK_ID/toolman-guide.md" \
  "$docs/$DOCS_PROJECT_DIRECTORY/.taskmaster/tasks/tasks.json"; do
  if [ -f "$place" ]; then cp "$place" task/; fi
done
if [ -n "$conflict" ]; then
  printf 'origin/%s does not merge into %s without conflicts. Merge it first, and resolve them.\n' "$BRANCH" "$feature" >task/merge-conflict.md
else
  rm -f task/merge-conflict.md
fi
for name in coding-guidelines.md github-guidelines.md mcp-tools.md acceptance-criteria.md; do
  if [ -s "/task-files/$name" ]; then cp "/task-files/$name" "task/$name"; fi
done
if [ -s /task-files/task-requirements.yaml ]; then
  base64 -d /task-files/task-requirements.yaml >task/task-requirements.yaml 2>/dev/null || cp /task-files/task-requirements.yaml task/
fi
if [ "$DOCS_REPOSITORY_URL" = "$REPOSITORY_URL" ]; then git -C "$target" worktree remove --force "$docs"; else rm -rf "$docs"; fi

if [ ! -s CLAUDE.md ] || [ "$OVERWRITE_MEMORY" = true ]; then cp /task-files/CLAUDE.md CLAUDE.md; fi
cp /task-files/mcp.json .mcp.json
needs_file CLAUDE.md
cp /task-files/prompt.md "$state/prompt.md"
if [ "$PROMPT_MODE" != replace ]; then
  needs_file task/prompt.md
  printf '\n' >>"$state/prompt.md"
  cat task/prompt.md >>"$state/prompt.md"
fi

arguments=(-p --output-format stream-json --verbose --model "$MODEL" --mcp-config /task-files/mcp.json)
if [ "$CONTINUE_SESSION" = true ] || [ "$ATTEMPTS" != 0 ]; then
  if [ -d "$HOME/.claude/projects" ] || [ -e "$state/session-$TASK_ID" ]; then arguments+=(--continue); fi
fi
say "attempt $((ATTEMPTS + 1)) at task $TASK_ID of $SERVICE_NAME, context $CONTEXT_VERSION"
code=0
claude "${arguments[@]}" <"$state/prompt.md" | tee "$state/claude.jsonl" || code=$?
touch "$state/session-$TASK_ID"
if [ "$code" != 0 ]; then
  message="the agent ended with $code"
  exit "$code"
fi
export FEATURE_BRANCH="$feature"
bash /task-files/hooks-stop-pr-creation.sh
