#!/bin/sh
# As postinstall.sh, on Alpine, which has no systemd.
set -e
getent group webknock >/dev/null || addgroup -S webknock
getent passwd webknock >/dev/null || adduser -S -D -H -h /var/lib/webknock -s /sbin/nologin -G webknock webknock
chgrp webknock /etc/webknock /etc/webknock/webknock.yaml
