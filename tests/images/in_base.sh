#!/usr/bin/env bash
# in_base.sh BASE PROJECT CACHE COMMAND...: runs COMMAND in PROJECT with the root file system BASE (build.py base).
# What it writes outside PROJECT and CACHE is forgotten: BASE is seen through an overlay in memory. Needs root.
set -euo pipefail
exec unshare --mount --propagation private bash -euo pipefail -c '
base=$1 project=$2 cache=$3; shift 3
t=/run/oarlock-base; mkdir -p $t; mount -t tmpfs tmpfs $t; mkdir $t/upper $t/work $t/root
mount -t overlay overlay -o "lowerdir=$base,upperdir=$t/upper,workdir=$t/work" $t/root
for d in /proc /sys /dev "$project" "$cache" /etc/ssl/certs; do
  if [ -d "$d" ]; then mkdir -p "$t/root$d"; mount --rbind "$d" "$t/root$d"; fi
done
for f in /etc/pip.conf /etc/resolv.conf /etc/hosts; do if [ -e $f ]; then cat $f >$t/root$f; fi; done
cd /
exec chroot $t/root env -C "$project" PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1 "$@"
' in_base "$@"
