package firewall_test

import (
	"testing"

	"webknock/firewall"
	"webknock/firewall/firewalltest"
)

func TestMemoryKeepsTheContract(t *testing.T) {
	firewalltest.Run(t, func(*testing.T) firewall.Backend { return firewall.NewMemory() })
}
