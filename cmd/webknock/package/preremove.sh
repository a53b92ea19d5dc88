#!/bin/sh
# Before a removal, not before an upgrade: the guard goes first, for without the
# program nobody can be let in and nobody takes it away. dpkg says "remove", rpm how
# many versions stay, apk and pacman call this only when the package goes.
set -e
case "${1:-}" in
upgrade | failed-upgrade | deconfigure | [1-9]) exit 0 ;;
esac
if ! webknock unguard && [ -e /var/lib/webknock/guard.json ]; then
	echo "webknock: the guard is still there, so the package stays: without it nobody could be let in" >&2
	exit 1
fi
if [ -d /run/systemd/system ]; then
	systemctl disable --now webknock.service webknock-guard.service 2>/dev/null || true
fi
