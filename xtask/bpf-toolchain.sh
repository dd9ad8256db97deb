#!/bin/sh
# What building the packet filter needs beyond a stable toolchain, put into DIRECTORY (about 230 MB):
#   sysroot/         core for the kernel's instruction set, from the sources of exactly this rustc
#   bin/bpf-linker   linked with rustc's own libLLVM, so that the versions match by construction
# Nothing outside DIRECTORY changes. Ends with 3 if the sources of core cannot be had.
set -eu
[ $# = 1 ] || { echo "usage: $0 DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
directory=$(cd "$1" && pwd)
linker=0.13.0
target=bpfel-unknown-none
version=$(rustc --version | cut -d' ' -f2)
own=$(rustc --print sysroot)
library=$directory/src/$version/library

# The component of rustup, or Debian's package of the same version, from the mirror that apt uses.
from_rustup() {
    installed=$own/lib/rustlib/src/rust/library
    if ! [ -e "$installed/core/src/lib.rs" ]; then
        command -v rustup >/dev/null || return 1
        timeout 60 rustup component add rust-src >/dev/null 2>&1 || return 1
    fi
    [ -e "$installed/core/src/lib.rs" ] && library=$installed
}
from_debian() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    mirror=$(grep -rhoE '^(URIs: |deb )[^ ]*http[^ ]*/debian/?( |$)' \
        /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | grep -oE 'http[^ ]*' | head -1)
    [ -n "$mirror" ] || return 1
    apt=$directory/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$directory/deb"
    options="-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=$apt
        -o Dir::State::Lists=$apt/lists -o Dir::Cache=$apt/cache
        -o APT::Sandbox::User=root -o Acquire::Languages=none"
    # The suite most likely to have it first: the lists of all suites are large.
    for suites in trixie-backports 'trixie trixie-backports forky sid'; do
        cat >"$apt/debian.sources" <<S
Types: deb
URIs: $mirror
Suites: $suites
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
S
        # shellcheck disable=SC2086 # a list of options
        timeout 120 apt-get $options -qq update || continue
        # shellcheck disable=SC2086
        package=$(apt-cache $options madison rust-src |
            awk -v v="$version" 'index($3, v "+") == 1 { print $3; exit }')
        [ -n "$package" ] && break
    done
    [ -n "${package:-}" ] || return 1
    # shellcheck disable=SC2086
    (cd "$directory/deb" && timeout 120 apt-get $options -qq download "rust-src=$package") || return 1
    unpacked=$directory/unpacked
    rm -rf "$unpacked" && mkdir -p "$unpacked" "$directory/src/$version"
    dpkg-deb --fsys-tarfile "$directory"/deb/rust-src_"$version"*.deb |
        tar x -C "$unpacked" --wildcards './usr/src/rustc-*/library' || return 1
    mv "$unpacked"/usr/src/rustc-*/library "$directory/src/$version/"
    rm -rf "$unpacked" "$directory/deb"
}
if ! [ -e "$library/core/src/lib.rs" ]; then
    from_rustup || from_debian || {
        echo "the sources of core $version cannot be had: neither rustup nor Debian gives them" >&2
        exit 3
    }
fi

# core, built once; the program is then built without unstable options of cargo.
made=$directory/sysroot/lib/rustlib/$target/lib
if ! [ -e "$made/done-$version" ]; then
    work=$directory/work
    rm -rf "$work" && mkdir -p "$work"
    echo '#![no_std]' >"$work/lib.rs"
    printf '[package]\nname="empty"\nversion="0.0.0"\nedition="2024"\n[lib]\npath="lib.rs"\n[workspace]\n' \
        >"$work/Cargo.toml"
    (cd "$work" && env -u RUSTFLAGS RUSTC_BOOTSTRAP=1 __CARGO_TESTS_ONLY_SRC_ROOT="$library" \
        CARGO_TARGET_DIR="$work/target" \
        cargo build --quiet --release --target "$target" -Z build-std=core)
    rm -rf "$made" && mkdir -p "$made"
    cp "$work/target/$target"/release/deps/*.rlib "$work/target/$target"/release/deps/*.rmeta "$made/"
    rm -f "$made"/libempty-*
    rm -rf "$work"
    touch "$made/done-$version"
fi

if ! [ -x "$directory/bin/bpf-linker" ] || ! [ -e "$directory/llvm/of-$version" ]; then
    llvm=$(basename "$own"/lib/libLLVM.so.*)
    major=${llvm#libLLVM.so.}
    major=${major%%.*}
    rm -rf "$directory/llvm" && mkdir -p "$directory/llvm/lib"
    ln -s "$own/lib/$llvm" "$directory/llvm/lib/libLLVM.so"
    ln -s "$own/lib/$llvm" "$directory/llvm/lib/$llvm"
    LLVM_PREFIX=$directory/llvm CARGO_TARGET_DIR=$directory/linker cargo install bpf-linker \
        --quiet --force --version "$linker" --locked --no-default-features \
        --features "llvm-$major" --root "$directory"
    rm -rf "$directory/linker"
    touch "$directory/llvm/of-$version"
fi
echo "rustc $version, $("$directory/bin/bpf-linker" --version)"
