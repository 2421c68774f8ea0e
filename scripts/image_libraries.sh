#!/bin/sh
# Builds the image libraries that wheels contain, from pinned sources, as static libraries:
#
#   image_libraries.sh PREFIX
#
# Needs curl, cmake and a C compiler; on x86-64 also nasm, without which libjpeg-turbo is slow.
set -eu
prefix=$1
jpeg=libjpeg-turbo-3.1.0 jpeg_sum=9564c72b1dfd1d6fe6274c5f95a8d989b59854575d4bbee44ade7bc17aa9bc93
png=libpng-1.6.47 png_sum=b213cb381fbb1175327bd708a77aab708a05adde7b471bc267bd15ac99893631

if command -v dnf >/dev/null 2>&1; then
  dnf install -y -q nasm zlib-devel
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fetch NAME URL SHA-256: downloads, compares the checksum and unpacks.
fetch() {
  curl -fsSL --retry 3 -o "$work/$1" "$2"
  if command -v sha256sum >/dev/null 2>&1; then
    found=$(sha256sum "$work/$1")
  else
    found=$(shasum -a 256 "$work/$1")
  fi
  if [ "${found%% *}" != "$3" ]; then
    echo "$2 has the SHA-256 checksum ${found%% *}, not $3" >&2
    exit 1
  fi
  tar -xf "$work/$1" -C "$work"
}

# build NAME FLAGS…: installs into PREFIX.
build() {
  source=$work/$1
  shift
  cmake -S "$source" -B "$source/build" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib \
    -DCMAKE_POSITION_INDEPENDENT_CODE=ON "$@"
  cmake --build "$source/build" --parallel
  cmake --install "$source/build"
}

case $(uname -m) in
  x86_64) simd="-DREQUIRE_SIMD=ON" ;;
  *) simd="" ;;
esac
fetch "$jpeg.tar.gz" \
  "https://github.com/libjpeg-turbo/libjpeg-turbo/releases/download/${jpeg#libjpeg-turbo-}/$jpeg.tar.gz" \
  "$jpeg_sum"
build "$jpeg" -DENABLE_SHARED=OFF -DWITH_TURBOJPEG=OFF $simd
fetch "$png.tar.xz" "https://download.sourceforge.net/libpng/$png.tar.xz" "$png_sum"
build "$png" -DPNG_SHARED=OFF -DPNG_TESTS=OFF -DPNG_TOOLS=OFF
