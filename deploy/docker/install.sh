#!/usr/bin/env bash
# Installs a build folder for an image: the tree of `cmake --install` without what is for developers, its
# libraries stripped, and beside it the names of the Debian packages that its programs and libraries load.
#
#   deploy/docker/install.sh BUILD PREFIX
set -euo pipefail
build=$1
prefix=$2
cmake --install "$build" --prefix "$prefix" --strip
rm -rf "$prefix/include" "$prefix/lib/cmake" "$prefix"/lib/*/cmake "$prefix/share/chord/proto"
find "$prefix/lib" -name '*.a' -delete
find "$prefix/lib" -name '*.so*' -type f -exec strip --strip-unneeded {} + 2>/dev/null || true
find "$prefix" -type d -empty -delete

# Only the programs decide: what a library of the tree could load and no program does stays out.
mapfile -t files < <(find "$prefix/bin" "$prefix/lib" -type f)
missing=$(for file in "${files[@]}"; do ldd "$file" 2>/dev/null; done | awk '/not found/ {print $1}' | sort -u |
  grep -v '^libcuda\.so' || true)
if [[ -n "$missing" ]]; then
  echo "Not found by the loader: $missing" >&2
  exit 1
fi
for file in "${files[@]}"; do ldd "$file" 2>/dev/null || true; done | awk '$3 ~ "^/" {print $3}' | sort -u |
  grep -v "^$prefix/" | while read -r library; do
  # Packages name the file at its place before /usr was merged.
  dpkg-query -S "$(realpath "$library")" 2>/dev/null || dpkg-query -S "$(realpath "$library" | sed 's|^/usr||')"
done | sed 's/:.*//' | sort -u >"$prefix/share/doc/chord/debian-packages"
