#!/bin/sh
# packages.sh installs Debian packages for the tests, as root, and leaves the
# host's services as they are: none of the packages starts one now, and none is
# enabled, so that none starts at the next boot either.
#
#     packages.sh PACKAGE...
set -eu
[ $# -gt 0 ] || { echo "usage: packages.sh PACKAGE..." >&2; exit 2; }
policy=/usr/sbin/policy-rc.d
kept=$policy.before-webknock-tests
links=$(mktemp)

# What is enabled is a symbolic link: below /etc/systemd for units, and with an
# S in /etc/rc[2-5].d for scripts of System V.
enabled() {
	{
		find /etc/systemd/system /etc/systemd/user -type l 2>/dev/null
		find /etc/rc[2-5].d -name 'S*' -type l 2>/dev/null
	} | sort
}

restore() {
	if [ -e "$kept" ]; then mv "$kept" "$policy"; else rm -f "$policy"; fi
	# What has come is taken away. dpkg remembers that it was there once, and
	# enables nothing anew when the package is upgraded.
	enabled | comm -13 "$links" - | while read -r link; do
		case $link in
		/etc/rc[2-5].d/*) script=${link##*/S??}; update-rc.d "$script" disable >/dev/null 2>&1 || rm -f "$link" ;;
		*) rm -f "$link"; rmdir "$(dirname "$link")" 2>/dev/null || true ;;
		esac
	done
	if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
	rm -f "$links"
}

enabled >"$links"
trap restore EXIT
trap 'exit 1' HUP INT TERM
# One that was there, even from an install that was killed, comes back.
if [ -e "$policy" ] && ! [ -e "$kept" ]; then mv "$policy" "$kept"; fi
printf '#!/bin/sh\nexit 101\n' >"$policy" # forbidden, says invoke-rc.d(8)
chmod 0755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt-get -qq -o DPkg::Lock::Timeout=300 update
apt-get -qq -y -o DPkg::Lock::Timeout=300 --no-install-recommends install "$@" >/dev/null
