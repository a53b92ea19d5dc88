#!/bin/sh
# debian.sh makes the Debian that the tests boot in a new directory, as root,
# from the mirror that this machine's apt uses.
#
#     debian.sh DIRECTORY
set -eu
[ $# = 1 ] || { echo "usage: debian.sh DIRECTORY" >&2; exit 2; }
packages=systemd,systemd-sysv,dbus,iproute2,procps,kmod,nftables,iptables,ufw,openssh-server,conntrack,ca-certificates,curl
mirror=$(sed -n 's/^URIs: *//p; s/^deb *\(\[[^]]*\] *\)\{0,1\}\(http[^ ]*\) .*/\2/p' \
	/etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep '/debian/*$' | head -n 1)
new=$1.new
rm -rf "$new"
echo "Making a Debian to boot (half a minute)"
debootstrap --variant=minbase --include=$packages bookworm "$new" "${mirror:-http://deb.debian.org/debian}" >"$1.log" 2>&1 ||
	{ tail -n 5 "$1.log" >&2; exit 1; }
rm -rf "$new/var/cache/apt/archives" "$1.log"
mv "$new" "$1"
