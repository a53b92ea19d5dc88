#!/bin/sh
# After an installation or an upgrade: the user, who may read the configuration, the
# units. Nothing is enabled: what the configuration says is guarded only when its
# administrator starts it. A daemon that runs is restarted: doors stay guarded
# meanwhile, and grants go on.
set -e
case "${1:-}" in abort-*) exit 0 ;; esac
systemd-sysusers /usr/lib/sysusers.d/webknock.conf
chgrp webknock /etc/webknock /etc/webknock/webknock.yaml
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart webknock.service
fi
if ! grep -q '^[a-z]' /etc/webknock/webknock.yaml; then
	echo "webknock guards nothing yet. What it would set up here: sudo webknock init"
fi
