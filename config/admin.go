package config

import (
	"fmt"
	"net"
)

// Admin says where the admin API is, and where else its metrics are.
type Admin struct {
	Socket  string `mapstructure:"socket" is:"socket"`
	Metrics string `mapstructure:"metrics" is:"metrics address"` // host:port; empty: on the socket alone
}

func defaultAdmin() Admin { return Admin{Socket: "/run/webknock/webknock.sock"} }

// metricsListener returns the address of the metrics as that of a listener. A name that
// is not localhost has no address yet.
func (a Admin) metricsListener() Listener {
	l := Listener{Address: a.Metrics}
	if host, port, err := net.SplitHostPort(a.Metrics); err == nil && host == "localhost" {
		l.Address = net.JoinHostPort("127.0.0.1", port)
	}
	return l
}

// checkMetrics reports an address of the metrics that a listener has, and warns of one
// that strangers can reach.
func (d *decoder) checkMetrics(cfg *Config) {
	const key = "admin.metrics"
	if cfg.Admin.Metrics == "" {
		return
	}
	metrics := cfg.Admin.metricsListener()
	for i, l := range cfg.Listeners {
		if metrics.conflicts(l) {
			d.lackAt(key, "listeners[%d] has %s already (give the metrics a port of their own)", i, l.Address)
			return
		}
	}
	if metrics.addr().IsLoopback() {
		return
	}
	who := "whoever reaches it"
	if door := cfg.doorOver(metrics); door != nil {
		who = fmt.Sprintf("whoever has passed door %q", door.Name)
	}
	d.warnAt(key, "%s is not a loopback address: %s can read the metrics, in clear and without a password (127.0.0.1:%d, or let your own firewall admit Prometheus alone)", cfg.Admin.Metrics, who, metrics.port())
}
