#!/usr/bin/env bash
# pack.sh CACHE PACKAGE...: fetches a Debian kernel, of the first package that is to be had, and
# packs what the guest needs of it. Prints the folder that then holds `kernel` and `initramfs`. 20 s
# the first time, nothing later.
#
# The package is not installed: it is fetched by apt, which checks its signature's chain, and
# unpacked. The initramfs holds the modules in the order in which they are loaded, boot.sh, and a
# static busybox to run that. A folder is named after all that goes in, and appears whole.
set -euo pipefail

readonly EXIT_UNAVAILABLE=69
# Roots on 9p, soft-RoCE, the interfaces that it lies on, and what disturbs them.
readonly MODULES=(
    virtio_pci virtio_console 9pnet_virtio 9p overlay crc32_generic
    rdma_rxe rdma_ucm dummy veth virtio_net sch_netem
)
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
readonly here cache=$1
shift
PATH=$PATH:/usr/sbin:/sbin

fail() {
    echo "guest: $*" >&2
    exit $EXIT_UNAVAILABLE
}

# fetch_kernel PACKAGE: unpacks the kernel's package into $work/kernel and prints its version.
fetch_kernel() {
    local package=$1 named
    # The name without a version is a package that only depends on the newest one with a version.
    named=$(apt-cache depends "$package" 2>/dev/null |
        sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    # As whom apt fetches: as ourselves, who may write here.
    (cd "$work" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "${named:-$package}") ||
        fail "apt cannot fetch the package ${named:-$package}"
    dpkg -x "$work"/*.deb "$work/kernel"
    rm "$work"/*.deb
    [[ -d $work/kernel/lib/modules ]] || ln -s usr/lib "$work/kernel/lib"
    (cd "$work/kernel/boot" && echo vmlinuz-*) | sed 's/^vmlinuz-//'
}

# pack_initramfs VERSION
pack_initramfs() {
    local version=$1 root=$work/initramfs.d file name
    mkdir -p "$root"/{bin,mod,proc,dev,host,over,root}
    cp /bin/busybox "$root/bin/"
    install -m 755 "$here/boot.sh" "$root/init"
    depmod -b "$work/kernel" "$version"
    for name in "${MODULES[@]}"; do
        modprobe -d "$work/kernel" -S "$version" --show-depends "$name" ||
            fail "the kernel $version has no module $name"
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' >"$work/modules"
    while read -r file; do
        name=$(basename "${file%%.ko*}")
        echo "$name" >>"$root/mod/order"
        case $file in
        *.xz) xz -dc "$file" ;;
        *.zst) zstd -dcq "$file" ;;
        *) cat "$file" ;;
        esac >"$root/mod/$name.ko"
    done <"$work/modules"
    (cd "$root" && find . | busybox cpio -o -H newc) >"$work/packed/initramfs" 2>/dev/null
}

# pack_kernel VERSION: the ELF image inside of vmlinuz, which QEMU starts at once: under emulation,
# unpacking itself would take the kernel seconds. Where none is found, vmlinuz as it is.
pack_kernel() {
    local image=$work/kernel/boot/vmlinuz-$1 offset elf=$work/elf
    # What begins like zstd or xz; other bytes follow its end, so both tools end in an error.
    LC_ALL=C grep -aboP '\x28\xb5\x2f\xfd|\xfd7zXZ' "$image" | cut -d : -f 1 | tr -d '\0' |
        while read -r offset; do
            tail -c +$((offset + 1)) "$image" >"$work/payload"
            for tool in 'zstd -dcq' 'xz -dcq --single-stream'; do
                $tool <"$work/payload" >"$elf" 2>/dev/null || true
                ! is_elf "$elf" || exit 0
            done
        done
    is_elf "$elf" || cp "$image" "$elf"
    mv "$elf" "$work/packed/kernel"
}

is_elf() {
    [[ -f $1 && $(head -c 4 "$1" | tail -c 3) == ELF ]]
}

# pack PACKAGE FOLDER
pack() {
    local version
    mkdir -p "$cache"
    work=$(mktemp -d "$cache/packing.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/packed"
    version=$(fetch_kernel "$1")
    pack_initramfs "$version"
    pack_kernel "$version"
    # Somebody else may have been faster: theirs is the same.
    mv -T "$work/packed" "$2" 2>/dev/null || [[ -d $2 ]]
}

main() {
    local key package
    key=$(cat "$here/boot.sh" "$here/pack.sh" | sha256sum | head -c 12)
    for package in "$@"; do
        if [[ -d $cache/$package-$key ]] || apt-cache show "$package" >/dev/null 2>&1; then
            [[ -d $cache/$package-$key ]] || pack "$package" "$cache/$package-$key"
            echo "$cache/$package-$key"
            return
        fi
    done
    fail "apt knows no package $(printf '%s or ' "$@" | sed 's/ or $//'); 'apt-get update' may" \
        "mend it, --kernel names another one"
}

main "$@"
