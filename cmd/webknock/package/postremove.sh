#!/bin/sh
# After a removal nothing runs. A purge leaves nothing behind; only dpkg has one.
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
[ "${1:-}" = purge ] || exit 0
rm -rf /etc/webknock /var/lib/webknock /run/webknock
if getent passwd webknock >/dev/null; then userdel webknock; fi
if getent group webknock >/dev/null; then groupdel webknock; fi
