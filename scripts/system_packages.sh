#!/bin/sh
# Installs the system packages that a source build needs, where they are missing and it is permitted
# (as root, or with passwordless sudo); says which to install where it is not.
#
#   system_packages.sh build      a C++ compiler, libjpeg-turbo and libpng with headers
#   system_packages.sh clang      clang with libFuzzer and the sanitizers' libraries
#   system_packages.sh valgrind   valgrind
#   system_packages.sh browser    Chromium and the driver through which tests use it
set -eu

missing() {
  case $1 in
    build)
      ! command -v c++ >/dev/null 2>&1 ||
        ! printf '#include <stdio.h>\n#include <jpeglib.h>\n#include <png.h>\n' | c++ -xc++ -E - >/dev/null 2>&1
      ;;
    clang)
      ! command -v clang++ >/dev/null 2>&1 ||
        ! echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
          clang++ -xc++ -fsanitize=fuzzer,address - -o /dev/null 2>/dev/null
      ;;
    valgrind) ! command -v valgrind >/dev/null 2>&1 ;;
    browser)
      ! command -v chromedriver >/dev/null 2>&1 || {
        ! command -v chromium >/dev/null 2>&1 && ! command -v google-chrome >/dev/null 2>&1
      }
      ;;
    *) echo "unknown package group: $1" >&2 && exit 2 ;;
  esac
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo "$@"
  else
    return 1
  fi
}

for group in "$@"; do
  missing "$group" || continue
  case $group in
    build)
      debian="g++ libjpeg-dev libpng-dev"
      fedora="gcc-c++ libjpeg-turbo-devel libpng-devel" brew="jpeg-turbo libpng"
      ;;
    clang) debian="clang libclang-rt-dev" fedora="clang compiler-rt" brew="llvm" ;;
    valgrind) debian="valgrind" fedora="valgrind" brew="valgrind" ;;
    browser)
      debian="chromium chromium-driver" fedora="chromium chromedriver" brew="chromium chromedriver"
      ;;
  esac
  if command -v apt-get >/dev/null 2>&1; then
    as_root apt-get update -qq && as_root apt-get install -qq -y $debian >/dev/null || true
  elif command -v dnf >/dev/null 2>&1; then
    as_root dnf install -q -y $fedora || true
  elif command -v brew >/dev/null 2>&1; then
    brew install -q $brew || true
  fi
  if missing "$group"; then
    echo "missing system packages ($group); install them with one of" >&2
    echo "  Debian, Ubuntu              apt-get install $debian" >&2
    echo "  Fedora, openEuler, CentOS   dnf install $fedora" >&2
    echo "  Homebrew                    brew install $brew" >&2
    exit 1
  fi
done
