# Sourced by `queuescope` and `test`: `installed ROOT EXTRA` makes sure that ROOT/.venv has the package with this extra.

installed() {
  local root=$1 extra=$2 seal=$1/.venv/installed
  # Installed before, from these very files, at this very place: nothing to do.
  if cmp -s "$root/pyproject.toml" "$seal/pyproject.toml" && cmp -s "$root/constraints.txt" "$seal/constraints.txt" &&
    [ "$(cat "$seal/root" 2>/dev/null)" = "$root" ] && [ -x "$root/.venv/bin/queuescope" ] &&
    grep -qx "$extra" "$seal/extras" && "$root/.venv/bin/python" -c '' 2>/dev/null; then
    return 0
  fi
  local python
  python=$(suitable_python) || return 1
  "$python" "$root/scripts/_install.py" "$root" "$extra"
}

suitable_python() {
  local candidate
  for candidate in ${QUEUESCOPE_PYTHON:-} python3.13 python3.12 python3.11 python3 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  echo "queuescope needs Python 3.11 or newer, and none of python3.13, python3.12, python3.11, python3 is one:" \
    "install it, or say where it is: QUEUESCOPE_PYTHON=/path/to/python3.12" >&2
  return 1
}
