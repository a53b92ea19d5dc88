package httpd

import (
	"bufio"
	"net/netip"
	"testing"
	"time"
)

var testClient = netip.MustParseAddr("192.0.2.1")

func BenchmarkParse(b *testing.B) {
	head := []byte("GET /a HTTP/1.1\r\nHost: home.example.org\r\nUser-Agent: curl/8.0.0\r\nAccept: */*\r\n\r\n")
	r := bufio.NewReaderSize(nil, MaxHead)
	b.ReportAllocs()
	for b.Loop() {
		l := NewKnock(testClient, time.Time{}, head)
		if _, err := l.Parse(r); err != nil {
			b.Fatal(err)
		}
	}
}
