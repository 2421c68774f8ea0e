#!/bin/sh
# Prints the interpreter of a Python version (such as 3.7): from the PATH, or from pyenv.
set -eu
version=$1
for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
  if "$candidate" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" \
    2>/dev/null; then
    command -v "$candidate"
    exit 0
  fi
done
echo "Python $version is not found; install it, for example with: pyenv install $version" >&2
exit 1
