package nft

import (
	"errors"
	"syscall"

	"github.com/google/nftables"
)

// errNoLabels is the problem that the status shows on a kernel without labels.
var errNoLabels = errors.New("the kernel has no labels of connections (CONFIG_NF_CONNTRACK_LABELS): " +
	"doors with established: keep know a running session by its state alone, so one that begins while the table is gone lives on after the repair")

// Problem returns which feature of the kernel the guard has to do without, or nil.
func (b *Backend) Problem() error {
	if b.noLabels.Load() {
		return errNoLabels
	}
	return nil
}

// hasLabels tries a rule that sets a label, in a table that the same transaction deletes.
func (b *Backend) hasLabels() bool {
	err := b.do("try labels of connections", func(c *nftables.Conn) error {
		table := c.AddTable(tableNamed(b.table.Name + "-try"))
		chain := c.AddChain(&nftables.Chain{Table: table, Name: "try"})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: setLabel.exprs})
		c.DelTable(table)
		return c.Flush()
	})
	return !errors.Is(err, syscall.EOPNOTSUPP)
}
