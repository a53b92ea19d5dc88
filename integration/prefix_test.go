package integration

import "testing"

// With clients.ipv4_prefix the knocks of a network make one progress, as a
// carrier's pool of addresses needs it. The grant is for the address of the last
// knock alone, or for the door's prefix around it.
func TestTheAddressesOfANetworkMayBeOneClient(t *testing.T) {
	w := newWorld(t)
	w.listen(22)
	w.serve(standard)
	w.knock(w.alice, serverIP, "/a", "/b")
	w.knock(w.mallory, serverIP, "/c")
	w.knock(w.alice, serverIP, "/nothing", "/a", "/b", "/c")
	w.mustBecome("ssh " + aliceIP)
	w.must("close", "--all")

	w.configure(standard + "clients: {ipv4_prefix: 24}\n")
	w.must("reload")
	w.knock(w.alice, serverIP, "/a", "/b")
	w.knock(w.mallory, serverIP, "/c")
	w.mustBecome("ssh " + malloryIP)
	w.mustPass(w.mallory, serverIP, 22, true)
	w.mustPass(w.alice, serverIP, 22, false)
	w.knock(w.alice, serverIP, "/a", "/b")
	w.knock(w.mallory, serverIP, "/nothing")
	w.knock(w.alice, serverIP, "/c") // starts over for the whole network
	w.knock(w.alice, serverIP, "/a", "/x")
	w.mustBecome("ssh "+malloryIP, "web "+aliceIP)
}
