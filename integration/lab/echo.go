package lab

import (
	"errors"
	"io"
	"net"
)

// Echo listens at an address of the host, by tcp or udp, and sends back what it receives,
// until it is closed.
func (h *Host) Echo(network, address string) (io.Closer, error) {
	var closer io.Closer
	err := h.Do(func() error {
		switch network {
		case "tcp":
			l, err := net.Listen(network, address)
			if err != nil {
				return err
			}
			closer = l
			go echoConnections(l)
		case "udp":
			c, err := net.ListenPacket(network, address)
			if err != nil {
				return err
			}
			closer = c
			go echoPackets(c)
		default:
			return errors.New("echo over " + network)
		}
		return nil
	})
	return closer, err
}

func echoConnections(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			buf := make([]byte, 512)
			for n, err := conn.Read(buf); err == nil; n, err = conn.Read(buf) {
				conn.Write(buf[:n])
			}
		}()
	}
}

func echoPackets(c net.PacketConn) {
	buf := make([]byte, 512)
	for n, from, err := c.ReadFrom(buf); err == nil; n, from, err = c.ReadFrom(buf) {
		c.WriteTo(buf[:n], from)
	}
}
