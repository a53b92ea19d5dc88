package httpd

import (
	"bufio"
	"net/netip"
	"testing"
	"time"
)

var letterFrom = netip.MustParseAddr("192.0.2.1")

func BenchmarkOpen(b *testing.B) {
	head := []byte("GET /a HTTP/1.1\r\nHost: home.example.org\r\nUser-Agent: curl/8.0.0\r\nAccept: */*\r\n\r\n")
	r := bufio.NewReaderSize(nil, MaxHead)
	b.ReportAllocs()
	for b.Loop() {
		l := NewLetter(letterFrom, time.Time{}, head)
		if _, err := l.Open(r); err != nil {
			b.Fatal(err)
		}
	}
}
