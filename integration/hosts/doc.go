// Package hosts tests the built program on whole systems: beside the real
// Docker, firewalld and Prometheus, under a booted systemd, with real browsers. Its tests
// need root and more packages than the others: they are built with the tag
// hosts alone, and make test-hosts runs them.
package hosts
