# Sourced by every script: where things are, and that what they need is installed. Idempotent.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${CERTAUTOPILOT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/certautopilot}
BIN=$ROOT/node_modules/.bin
PYTHON=${PYTHON:-python3}

say() { printf '%s\n' "$*" >&2; }

need() {
  command -v "$1" >/dev/null 2>&1 || { say "error: $1 is not installed"; say "hint: $2"; exit 1; }
}

# The pinned packages of package-lock.json, once a lock file.
setup_node() {
  need node "install Node.js 20 or newer, with npm"
  need npm "install npm, it comes with Node.js"
  local stamp=$ROOT/node_modules/.installed-from want
  want=$(cksum <"$ROOT/package-lock.json")
  if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
    say "installing the packages of package-lock.json"
    # npm ci refuses a lock file whose other platforms' binaries a registry does not carry; npm install takes the same
    # versions from it and leaves it as it is.
    (cd "$ROOT" && { npm ci --no-audit --no-fund --loglevel=silent >&2 || npm install --no-save --no-audit --no-fund --loglevel=error >&2; })
    printf '%s' "$want" >"$stamp"
  fi
}

# Python packages of the independent reader, in an environment of their own.
setup_python() {
  need "$PYTHON" "install Python 3.9 or newer, with pip and venv"
  local requirements=$ROOT/test/independent/requirements.txt env=$CACHE/python want
  want=$(cksum <"$requirements")
  if [ "$(cat "$env/.installed-from" 2>/dev/null || true)" != "$want" ]; then
    say "installing the Python packages of test/independent"
    mkdir -p "$CACHE"
    "$PYTHON" -m venv --clear "$env" >&2
    "$env/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" >&2
    printf '%s' "$want" >"$env/.installed-from"
  fi
  export CERTAUTOPILOT_TEST_PYTHON=$env/bin/python
}

setup_mongod() {
  CERTAUTOPILOT_MONGOD=$("$ROOT/scripts/mongod")
  export CERTAUTOPILOT_MONGOD
}
