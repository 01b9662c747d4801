# Shared by the scripts of a run: how it fails, how repositories are reached, what is told at the end.
# All that a request says comes by the environment, and is never part of this text.

state="/workspace/.mindos"
mkdir -p "$state"

say() { printf '%s\n' "mindos: $*"; }

fail() {
  message="$*"
  printf '%s\n' "$message" >"$state/failed"
  printf '%s\n' "mindos: failed: $message" >&2
  exit 1
}

needs_file() { [ -s "$1" ] || fail "$1 is missing or empty"; }
needs_program() { command -v "$1" >/dev/null 2>&1 || fail "the image has no \`$1\`"; }

# What the Job tells at its end: the cluster agent reads the last line of the log that begins so, or the termination message.
tell_outcome() {
  local code=$? pull_request="" session="" cost="" input="" output="" branch="" result=""
  trap - EXIT
  [ -s "$state/pull-request" ] && pull_request="$(head -n 1 "$state/pull-request")"
  [ -s "$state/branch" ] && branch="$(head -n 1 "$state/branch")"
  # Also of a script that this one called.
  if [ "$code" != 0 ] && [ -z "${message:-}" ] && [ -s "$state/failed" ]; then message="$(head -n 1 "$state/failed")"; fi
  if [ -s "$state/claude.jsonl" ]; then
    result="$(grep '"type" *: *"result"' "$state/claude.jsonl" | tail -n 1 || true)"
    number() { printf '%s' "$result" | grep -oE "\"$1\" *: *[0-9.eE+-]+" | head -n 1 | sed 's/.*: *//' || true; }
    cost="$(number total_cost_usd)"
    input="$(number input_tokens)"
    output="$(number output_tokens)"
    session="$(printf '%s' "$result" | grep -oE '"session_id" *: *"[A-Za-z0-9-]+"' | head -n 1 | sed 's/.*: *"//; s/"$//' || true)"
  fi
  local told
  told="$(printf '{"exitCode":%d,"pullRequestUrl":"%s","branch":"%s","sessionId":"%s","costUsd":%s,"inputTokens":%s,"outputTokens":%s,"message":"%s"}' \
    "$code" "$(plain "$pull_request")" "$(plain "$branch")" "$session" "${cost:-null}" "${input:-null}" "${output:-null}" "$(plain "${message:-}")")"
  printf 'mindos-outcome: %s\n' "$told"
  { printf '%s' "$told" >/dev/termination-log; } 2>/dev/null || true
  exit "$code"
}

# A text that may stand within a JSON string.
plain() { printf '%s' "$1" | tr -d '"\\\000-\037' | head -c 1024; }

# Opens the repositories: by key for git@ and ssh://, by token for https://.
open_access() {
  export GIT_TERMINAL_PROMPT=0
  local url needs_key="" needs_token=""
  for url in "$@"; do
    case "$url" in
      git@* | ssh://*) needs_key=yes ;;
      *) needs_token=yes ;;
    esac
  done
  if [ -n "$needs_key" ]; then
    needs_file /workspace/.ssh/id_ed25519
    local keys
    keys="$(mktemp -d)"
    cp /workspace/.ssh/id_ed25519 "$keys/id"
    chmod 600 "$keys/id"
    export GIT_SSH_COMMAND="ssh -i $keys/id -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=/task-files/known-hosts"
  fi
  GITHUB_TOKEN="${GITHUB_TOKEN:-${GITHUB_PAT:-}}"
  if [ -n "$GITHUB_TOKEN" ]; then
    export GITHUB_TOKEN GH_TOKEN="$GITHUB_TOKEN"
    local ask
    ask="$(mktemp)"
    cat >"$ask" <<'ASK'
#!/bin/bash
case "$1" in Username*) echo x-access-token ;; *) printf '%s\n' "$GITHUB_TOKEN" ;; esac
ASK
    chmod 700 "$ask"
    export GIT_ASKPASS="$ask"
  elif [ -n "$needs_token" ]; then
    say "no token of $GITHUB_USER is there: only public repositories can be read, and nothing can be pushed over https"
  fi
  git config --global user.name "$GITHUB_USER"
  git config --global user.email "$GITHUB_USER@users.noreply.github.com"
  git config --global --replace-all safe.directory '*'
}

reaches() {
  git ls-remote --quiet --exit-code "$1" HEAD >/dev/null 2>"$state/reach" || fail "cannot read $1: $(tail -n 1 "$state/reach")"
}

# Opens a pull request of a branch, or finds the one that is open; keeps its address for the outcome.
pull_request() {
  local head="$1" base="$2" title="$3" body="$4" url="" path=""
  if command -v gh >/dev/null 2>&1; then
    url="$(gh pr list --head "$head" --base "$base" --state open --json url --jq '.[0].url' || true)"
    if [ -z "$url" ] || [ "$url" = null ]; then
      url="$(gh pr create --head "$head" --base "$base" --title "$title" --body-file "$body" | grep -oE 'https?://[^ ]+' | tail -n 1)" ||
        fail "the pull request was not opened"
    fi
  elif [ -n "${GITHUB_TOKEN:-}" ] && command -v curl >/dev/null 2>&1; then
    path="$(printf '%s' "$REPOSITORY_URL" | sed -E 's#^(git@|ssh://git@|https?://)##; s#\.git$##; s#^[^/:]+[:/]##')"
    local api="${GITHUB_API_URL:-https://api.github.com}/repos/$path/pulls" owner="${path%%/*}"
    # The token goes by standard input, so that no list of processes shows it.
    ask_github() { printf 'header = "Authorization: Bearer %s"\n' "$GITHUB_TOKEN" | curl -sS --fail-with-body --max-time 60 -K - -H 'Accept: application/vnd.github+json' "$@"; }
    address() { grep -oE '"html_url" *: *"[^"]+/pull/[0-9]+"' | head -n 1 | sed 's/.*: *"//; s/"$//'; }
    url="$(ask_github "$api?state=open&head=$owner:$head&base=$base" | address || true)"
    if [ -z "$url" ]; then
      printf '{"head":"%s","base":"%s","title":"%s","body":"%s"}' \
        "$head" "$base" "$(plain "$title")" "$(plain "$(tr '\n' ' ' <"$body")")" >"$state/pull-request.json"
      url="$(ask_github -X POST -d @"$state/pull-request.json" "$api" | address)" || fail "the pull request was not opened"
    fi
  else
    say "no way to open a pull request is there (gh, or a token): $head is pushed"
    return 0
  fi
  printf '%s\n' "$url" >"$state/pull-request"
  say "pull request $url"
}
