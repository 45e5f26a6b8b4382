#!/bin/busybox sh
# shellcheck shell=dash
# The guest's first process, in its initramfs: loads the modules, lays a tmpfs over the root of the
# machine that runs the guest, and goes on there with inside.sh. Only busybox is there to use.
b=/bin/busybox
shared=trans=virtio,version=9p2000.L,msize=512000

$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
while read -r module; do
    $b insmod "/mod/$module.ko" || echo "guest: insmod $module failed"
done </mod/order

$b mount -t 9p -o "$shared,ro,cache=loose" root /host
$b mount -t tmpfs -o size=80% over /over
$b mkdir /over/upper /over/work
$b mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work root /root

cd /root || exit
$b mount -t proc proc proc
$b mount -t sysfs sys sys
$b mount -t devtmpfs dev dev
$b mkdir -p dev/shm dev/pts
$b mount -t tmpfs shm dev/shm
$b mount -t devpts pts dev/pts
$b mount -t tmpfs run run
$b mkdir run/guest run/guest-out
$b mount -t 9p -o "$shared,cache=none" job run/guest
$b mount -t 9p -o "$shared,cache=none" out run/guest-out
exec $b switch_root /root /bin/bash /run/guest/inside.sh
