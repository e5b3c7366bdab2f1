# Set-up that scripts/demo, scripts/test and scripts/check share; read with `.` from the project's root.
# Puts Python packages into .venv (or $OPENCODE_MAGIC_VENV), exactly as locked, and is quick when nothing changed.

ROOT=$PWD
VENV=${OPENCODE_MAGIC_VENV:-$ROOT/.venv}

# What the sandbox needs of the system, and what only the tests need, as PROGRAM=PACKAGE.
SANDBOX_PROGRAMS=(bwrap=bubblewrap rg=ripgrep git=git)
# A path stands for a file that must exist; the library is what Playwright's own runtime needs.
TEST_PROGRAMS=(
  curl=curl ip=iproute2 chromium=chromium
  /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf=fonts-dejavu-core
  '/usr/lib/*/libatomic.so.1=libatomic1'
)

say() { printf '%s\n' "$*" >&2; }

# Ends the script with one line that says what to do.
stop() {
  say "$(basename "$0"): $*"
  exit 1
}

# Prints a Python of 3.11 or later.
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  return 1
}

# may_install: can system packages be installed here without asking for a password?
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}
may_install() {
  command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

# ensure_system PROGRAM=PACKAGE...: every program is there, or its Debian package gets installed.
# Where that cannot be, ends with one line that names everything that is missing.
ensure_system() {
  local pair packages=()
  for pair in "$@"; do
    has_program "${pair%%=*}" || packages+=("${pair#*=}")
  done
  [ ${#packages[@]} -gt 0 ] || return 0
  may_install || stop "missing: ${packages[*]}. Next: ask an administrator to run: apt-get install ${packages[*]}"
  say "Installing system packages: ${packages[*]}"
  apt_install "${packages[@]}" || stop "apt-get could not install ${packages[*]}; its last lines are in $APT_LOG"
}

has_program() {
  case $1 in
    /*) compgen -G "$1" >/dev/null ;;
    *) command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] ;;
  esac
}

APT_LOG=$ROOT/build/apt.log
apt_install() {
  mkdir -p "$(dirname "$APT_LOG")"
  {
    as_root apt-get update -q -o DPkg::Lock::Timeout=300 &&
      as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@"
  } >"$APT_LOG" 2>&1
}

# ensure_venv LOCK...: the virtual environment holds what the lock files say, and this checkout.
ensure_venv() {
  local python stamp want lock
  if [ ! -x "$VENV/bin/python" ]; then
    python=$(find_python) || { ensure_system python3=python3; python=$(find_python); } ||
      stop "needs Python 3.11 or later. Next: install it and put it on PATH"
    make_venv "$python"
  fi
  for lock in "$@"; do
    stamp=$VENV/.locked-$(basename "$lock" .txt)
    # The tools' own tables in pyproject.toml change nothing that gets installed.
    want=$({ cat "$lock"; sed '/^\[tool\./,$d' pyproject.toml; } | sha256sum)
    [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && continue
    (
      flock 9
      [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && exit 0
      say "Installing Python packages of $lock into ${VENV#"$ROOT"/} ..."
      "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes -r "$lock" &&
        "$VENV/bin/python" -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e . &&
        echo "$want" >"$stamp"
    ) 9>"$VENV/.lock" || stop "pip could not install the packages of $lock; its message stands above"
  done
}

# Makes the virtual environment; on Debian that needs the package python3-venv.
make_venv() {
  say "Making a virtual environment in ${VENV#"$ROOT"/} ..."
  "$1" -m venv "$VENV" >/dev/null 2>&1 && return
  rm -rf "$VENV"
  may_install || stop "python3 -m venv does not work here. Next: ask an administrator to run: apt-get install python3-venv"
  apt_install python3-venv && "$1" -m venv "$VENV" || stop "could not make a virtual environment in $VENV"
}

# ensure_npm: some npm, to fetch the pinned OpenCode by its package's name; where there is none, the one from a wheel.
ensure_npm() {
  command -v npm >/dev/null || ensure_venv scripts/locks/npm.txt
}
