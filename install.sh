#!/bin/sh
# Installs certautopilot on this host:
#   curl -fsSL …/install.sh | sudo sh -s -- --version=1.4.0 --mongo=local
# It finds the release file for this host, checks its sha256, and hands over to `certautopilot install`, which does the
# rest. POSIX sh. Nothing runs before the last line has been read, so a script that was cut off does nothing.
# No trace and no export of everything, which `sh -x` or SHELLOPTS may ask for: they would show the PIN.
set +ax -eu

VERSION=1.4.0
# Where the release files are: a URL or a directory with v<version>/ in it.
BASE_URL=https://github.com/CloudNativeWorks/certautopilot-archive/releases/download

main() {
  # What the environment has under these names would be exported to every program that is started here.
  unset pin uri
  version=$VERSION base=${CERTAUTOPILOT_BASE_URL:-$BASE_URL} root='' dry_run='' pin='' pin_file='' uri='' uri_file='' work=''
  seen=' '
  for word; do
    shift
    once "$word"
    case $word in
      --help) help && exit 0 ;;
      --version=?*) version=${word#*=} ;;
      --base-url=?*) base=${word#*=} ;;
      # These two are handed over through pipes: an argument shows in the list of processes.
      --pkcs11-pin=?*) pin=${word#*=} ;;
      --mongo-uri=?*) uri=${word#*=} ;;
      --mongo=local | --mongo=external | --kek-provider=env | --kek-provider=pkcs11) set -- "$@" "$word" ;;
      --mongo=* | --kek-provider=*) usage "${word%%=*} has another value than it can have" "$(values "${word%%=*}")" ;;
      --pkcs11-pin-file=?*) pin_file=1 && set -- "$@" "$word" ;;
      --mongo-uri-file=?*) uri_file=1 && set -- "$@" "$word" ;;
      --root=?*) root=${word#*=} && set -- "$@" "$word" ;;
      --dry-run) dry_run=1 && set -- "$@" "$word" ;;
      --mongo-database=?* | --mongo-port=?* | --mongod=?* | --secrets-from=?*) set -- "$@" "$word" ;;
      --pkcs11-module=?* | --pkcs11-token-label=?* | --pkcs11-state=?*) set -- "$@" "$word" ;;
      --listen=?* | --instance-name=?* | --no-service | --allow-downgrade | --yes | --json | --debug) set -- "$@" "$word" ;;
      --version* | --base-url* | --mongo* | --kek-provider* | --pkcs11-* | --secrets-from* | --listen* | --instance-name* | --root*)
        usage "${word%%=*} has no value, or is no flag" "values follow an equals sign, as in --mongo=local; --help lists every flag"
        ;;
      # What is no flag may be a PIN that lost its flag: it is not repeated.
      -*) usage "${word%%=*} is no flag of this script" "--help lists every flag" ;;
      *) usage "there is an argument that is no flag" "values follow an equals sign, as in --mongo=local; --help lists every flag" ;;
    esac
  done
  [ -z "$pin" ] || [ -z "$pin_file" ] || usage "--pkcs11-pin and --pkcs11-pin-file are both given" "name one of them"
  [ -z "$uri" ] || [ -z "$uri_file" ] || usage "--mongo-uri and --mongo-uri-file are both given" "name one of them"
  case $version in
    [0-9]*) ;;
    *) usage "--version is no version" "name one as in --version=$VERSION, without a v" ;;
  esac
  case $version in *[!0-9A-Za-z.+-]*) usage "--version is no version" "name one as in --version=$VERSION" ;; esac
  if [ -z "$root" ] && [ -z "$dry_run" ] && [ "$(id -u)" != 0 ]; then
    usage "only root can install on a host" "put sudo before sh or bash, as in: … | sudo sh -s -- --version=$version …; or lay it under a directory with --root=DIR"
  fi
  [ -z "$pin" ] || warn "--pkcs11-pin can be seen in the list of processes and in the shell's history; --pkcs11-pin-file=FILE cannot, nor can a PIN that is asked for on the terminal"
  case $uri in *@*) warn "--mongo-uri with a password can be seen in the list of processes and in the shell's history; --mongo-uri-file=FILE cannot" ;; esac

  file=certautopilot-$(target)
  say "release file: $file, version $version"
  trap cleanup EXIT
  trap 'interrupted 129' HUP
  trap 'interrupted 130' INT
  trap 'interrupted 143' TERM
  case $base in
    *://*) check_url "$base" ;;
    *) check_directory "$base" ;;
  esac
  runs_in_place || place_program
  # The program asks its questions on the terminal, which it opens for writing too. Without one, as in a job, its input is
  # empty. It is never the pipe that this script may have come through.
  input=/dev/null
  if (: 0<>/dev/tty) 2>/dev/null; then input=/dev/tty; fi
  hand_over "$@"
}

say() { printf '%s\n' "$*" >&2; }
warn() { say "warning: $*"; }

# An error that leaves the host as it was.
fail() {
  say "error: $1"
  say "hint: $2"
  exit 1
}

# A closed terminal must not change the exit code.
interrupted() {
  {
    say "error: interrupted"
    say "hint: nothing was changed; run it again"
  } 2>/dev/null || true
  exit "$1"
}

usage() {
  say "error: $1"
  say "hint: $2"
  exit 2
}

help() {
  cat <<EOF
Installs certautopilot on this host, or changes an install. Flags that are not given leave what is there.

  --version=X                  the release to install ($VERSION unless told)
  --base-url=URL|DIR           where v<version>/ with the release files is: https, or a directory (CERTAUTOPILOT_BASE_URL)
  --dry-run                    print the whole plan and touch nothing
  --mongo=local|external       a MongoDB of its own on this host, or one that is there
  --mongo-uri-file=FILE        external: a file of mode 0600 with the replica set's URI (CERTAUTOPILOT_DATABASE_URI; --mongo-uri=URI)
  --mongo-database=NAME        the database
  --mongod=PATH                local: the mongod to run
  --mongo-port=PORT            local: its port (27017)
  --kek-provider=env|pkcs11    where keys are: in a file of mode 0600, or in an HSM. For ever
  --pkcs11-module=PATH         the HSM's PKCS#11 library
  --pkcs11-token-label=LABEL   the token
  --pkcs11-state=DIR           a directory that the library writes to (SoftHSM's tokens)
  --pkcs11-pin-file=FILE       a file of mode 0600 with the PIN (CERTAUTOPILOT_ENCRYPTION_PKCS11_PIN; --pkcs11-pin=PIN). Else it is asked for
  --secrets-from=FILE          the secrets.env of another host of the same fleet
  --listen=ADDRESS             where the service listens
  --instance-name=NAME         what this process is called in the fleet
  --root=DIR                   lay everything under a directory; needs no root
  --no-service                 no systemd: print the commands instead
  --allow-downgrade            replace a newer release by this one
  --yes, --json, --debug       no questions; the result as JSON; more about an error
  --help                       this text
EOF
}

# Each flag once: of two values nobody knows which was meant.
once() {
  case $1 in
    -*)
      case $seen in *" ${1%%=*} "*) usage "${1%%=*} is given twice" "name it once" ;; esac
      seen="$seen${1%%=*} "
      ;;
  esac
}

values() {
  case $1 in
    --mongo) echo "--mongo=local or --mongo=external" ;;
    --kek-provider) echo "--kek-provider=env or --kek-provider=pkcs11" ;;
  esac
}

# The release file for this host: system, processor, C library, and whether the processor has AVX2.
target() {
  case $(uname -s)/$(uname -m)/$(libc)/$(avx2) in
    Linux/x86_64/glibc/avx2) echo linux-x64 ;;
    Linux/x86_64/glibc/*) echo linux-x64-baseline ;;
    Linux/x86_64/musl/*) echo linux-x64-musl ;;
    Linux/aarch64/glibc/*) echo linux-arm64 ;;
    *)
      fail "there is no release file for $(uname -s) on $(uname -m) with $(libc)" \
        "there are Linux on x86_64 with glibc or musl, and Linux on aarch64 with glibc"
      ;;
  esac
}

# ldd belongs to the C library; a loader of another may lie beside it.
libc() {
  case $(ldd --version 2>&1 || true) in
    *musl*) echo musl ;;
    *GLIBC* | *GNU* | *glibc*) echo glibc ;;
    *)
      if [ -e /lib64/ld-linux-x86-64.so.2 ] || [ -e /lib/ld-linux-aarch64.so.1 ]; then
        echo glibc
      elif [ -e /lib/ld-musl-x86_64.so.1 ] || [ -e /lib/ld-musl-aarch64.so.1 ]; then
        echo musl
      else
        echo "an unknown C library"
      fi
      ;;
  esac
}

avx2() {
  if grep -q -w avx2 /proc/cpuinfo 2>/dev/null; then echo avx2; else echo none; fi
}

# Sets `fetcher`. Nothing is fetched over a connection that others can change.
check_url() {
  case $1 in
    https://*) ;;
    http://127.0.0.1[:/]* | http://localhost[:/]* | 'http://[::1]'[:/]*) ;;
    *) usage "--base-url is neither https nor a directory" "what comes over http can be changed on its way, its sha256 too; a mirror needs https, or copy the files here and name the directory" ;;
  esac
  case $1 in
    *[[:space:]\"\\]*) usage "--base-url has a blank, a quote or a backslash in it" "write it as %20, %22 or %5C" ;;
    *://*@*) usage "--base-url has a user name or a password in it" "it would show in the list of processes; copy the files here and name the directory" ;;
  esac
  from=${1%/}/v$version bring=fetch_release
  if command -v curl >/dev/null 2>&1; then
    fetcher=curl
  elif command -v wget >/dev/null 2>&1; then
    case $(wget --version 2>&1 || true)$1 in
      *'GNU Wget'*) fetcher=gnu_wget ;;
      *http://*) fetcher=other_wget ;;
      # busybox's own may accept any certificate.
      *) fail "this host's wget may not check certificates" "install curl, or copy the release files here and name their directory with --base-url" ;;
    esac
  else
    fail "neither curl nor wget is installed" "install curl, or copy the release files here and name their directory with --base-url"
  fi
}

check_directory() {
  from=${1%/}/v$version bring=copy_release
  [ -f "$from/SHA256SUMS" ] || fail "there is no $from/SHA256SUMS" "--base-url names a directory that has v$version/ in it, with SHA256SUMS and $file"
  [ -f "$from/$file" ] || fail "there is no $from/$file" "copy it from the release, or name another --base-url"
}

# A dry run from a directory starts the release file where it is, so that it writes nothing. Sets `program`.
runs_in_place() {
  [ -n "$dry_run" ] && [ "$bring" = copy_release ] && [ -x "$from/$file" ] || return 1
  check_sum "$from"
  program=$(CDPATH='' cd -- "$from" && pwd)/$file
  starts
}

# Sets `program`: the checked release file, in a private directory. The first directory is used that has room for it and
# lets programs run.
place_program() {
  tried=' ' problems=''
  for parent in "${TMPDIR:-/tmp}" /tmp /var/tmp /run /dev/shm /usr/local/lib; do
    case $tried in *" $parent "*) continue ;; esac
    tried="$tried$parent "
    if place_in "$parent"; then return; fi
    cleanup
    say "note: $parent cannot be used: $problem"
    problems="$problems; $parent: $problem"
  done
  fail "no directory can hold and run the release file${problems}" \
    "make 200 MB of room in one of them, or name another directory that programs may run in: TMPDIR=/path, after sudo if that is used; nothing was changed"
}

# Sets `program` and `work` below directory $1, or sets `problem` and fails. mktemp makes a directory for its owner alone.
place_in() {
  work=''
  problem=$(mktemp -d "$1/certautopilot-install.XXXXXX" 2>&1) || return 1
  work=$problem
  problem="no file can be written in it: it is full"
  { printf '#!/bin/sh\nexit 0\n' >"$work/try"; } 2>/dev/null || return 1
  chmod 700 "$work/try"
  # Only a try tells: mount options and security policies can forbid it.
  problem="programs may not run in it (a file system mounted noexec, or a security policy)"
  "$work/try" 2>/dev/null || return 1
  $bring || return 1
  check_sum "$work"
  program=$work/certautopilot
  mv "$work/$file" "$program"
  chmod 700 "$program"
  starts
}

cleanup() {
  [ -z "$work" ] || rm -rf "$work"
}

# Copies SHA256SUMS and the release file to `work`, or sets `problem` and fails where that is the fault of `work`.
copy_release() {
  said=$(cp "$from/SHA256SUMS" "$from/$file" "$work/" 2>&1) && return
  cat "$from/SHA256SUMS" "$from/$file" >/dev/null 2>&1 || fail "$from cannot be read: $(one_line "$said")" "copy the release's files again; nothing was changed"
  problem="the release file cannot be written: $(one_line "$said")"
  return 1
}

# The same from a URL.
fetch_release() {
  for name in SHA256SUMS "$file"; do
    say "fetching $from/$name"
    status=0
    said=$(fetch "$from/$name" "$work/$name" 2>&1) || status=$?
    [ "$status" != 0 ] || continue
    said=$(one_line "$said")
    case $fetcher/$status/$said in
      curl/23/* | gnu_wget/3/* | *'No space left'* | *'uota exceeded'*)
        problem="$name cannot be written: $said"
        return 1
        ;;
    esac
    fail "$from/$name was not fetched: ${said:-$fetcher ended with code $status}" "check --version, --base-url and that this host reaches the server; nothing was changed"
  done
}

# Fetches URL $1 to file $2. What it prints is the reason why it failed.
fetch() {
  case $fetcher/$1 in
    curl/https:*) curl -q --fail --silent --show-error --location --proto '=https' --tlsv1.2 --connect-timeout 30 --speed-time 60 --speed-limit 1 --retry 2 --output "$2" "$1" ;;
    curl/*) curl -q --fail --silent --show-error --noproxy '*' --proto '=http' --output "$2" "$1" ;;
    # GNU's follows a redirect to http, for which there is no way here.
    gnu_wget/https:*) http_proxy=http://127.0.0.1:9/ wget --no-config --no-verbose --secure-protocol=TLSv1_2 --timeout=30 --tries=3 -O "$2" "$1" ;;
    gnu_wget/*) http_proxy='' wget --no-config --no-verbose --tries=3 -O "$2" "$1" ;;
    *) http_proxy='' wget -q -O "$2" "$1" ;;
  esac
}

one_line() { printf '%s' "$1" | tr '\n' ' '; }

# The sha256 of $1/$file is the one that $1/SHA256SUMS has.
check_sum() {
  want=$(awk -v file="$file" '$2 == file || $2 == "*" file { print $1 }' "$1/SHA256SUMS")
  case $want in
    *[!0-9a-f]* | '') fail "SHA256SUMS has no sha256 of $file, or more than one" "the release is not complete; nothing was changed" ;;
  esac
  have=$(sha256 <"$1/$file") || exit 1
  [ "$have" = "$want" ] || fail "$file is not what SHA256SUMS says: sha256 $have, not $want" "fetch the release again, and find out who changed it; nothing was changed"
}

sha256() {
  if command -v sha256sum >/dev/null 2>&1; then
    sha256sum | cut -d' ' -f1
  elif command -v shasum >/dev/null 2>&1; then
    shasum -a 256 | cut -d' ' -f1
  elif command -v openssl >/dev/null 2>&1; then
    openssl dgst -sha256 -r | cut -d' ' -f1
  else
    fail "no program here makes a sha256" "install coreutils (sha256sum) or openssl"
  fi
}

# The program starts. Sets `problem` and fails where its directory does not let it.
starts() {
  status=0
  said=$("$program" --version 2>&1) || status=$?
  if [ "$status" = 0 ]; then
    [ "$said" = "$version" ] || fail "$file says that it is version $said, not $version" "the release is not what its directory says; nothing was changed"
    return
  fi
  said=$(one_line "$said")
  problem="programs may not run in it: $said"
  case $said in *'ermission denied'* | *'not permitted'*) return 1 ;; esac
  case $file/$said in
    *-musl/*'loading shared library libstdc++'*) fail "$file needs libstdc++, which this host does not have" "install it (Alpine: apk add libstdc++); nothing was changed" ;;
    *-musl/*) fail "$file does not run on this host (code $status): $said" "it needs musl 1.2.4 or newer with libstdc++ of GCC 12 or newer (Alpine 3.18 or newer); this host has musl $(musl_version); nothing was changed" ;;
    *) fail "$file does not run on this host (code $status): $said" "it needs Linux with glibc 2.17 or newer; nothing was changed" ;;
  esac
}

# The loader prints the version when it is started without a program.
musl_version() {
  found=$({
    ldd --version
    for loader in /lib/ld-musl-*.so.1; do "$loader"; done
  } 2>&1 | sed -n 's/^Version //p')
  echo "${found:-of an unknown version}" | head -n 1
}

# Starts the program and ends with its exit code. It decides what a signal means: this shell only waits for it.
hand_over() {
  trap : HUP INT TERM
  if [ -n "$pin" ]; then
    emit "$pin" | {
      pin=''
      hand_over "$@" --pkcs11-pin-file=/dev/fd/3 3<&0
    }
  elif [ -n "$uri" ]; then
    emit "$uri" | {
      uri=''
      hand_over "$@" --mongo-uri-file=/dev/fd/4 4<&0
    }
  else
    "$program" install "$@" 0<>"$input"
  fi
}

# Writes a secret by a command of the shell itself: it is in no process's arguments, and in no file. mksh has print alone.
emit() {
  case $(command -v printf)/$(command -v print || true) in
    printf/*) printf '%s' "$1" ;;
    */print) print -rn -- "$1" ;;
    *) usage "this shell cannot write a secret without showing it in the list of processes" "use --pkcs11-pin-file=FILE and --mongo-uri-file=FILE, or another shell" ;;
  esac
}

{ main "$@"; }
