package config

// Clients bounds what is remembered of clients.
type Clients struct {
	Max        int `mapstructure:"max" limits:"1..100000000"`   // in progress at once
	IPv4Prefix int `mapstructure:"ipv4_prefix" limits:"8..32"`  // bits of an IPv4 address that make a client
	IPv6Prefix int `mapstructure:"ipv6_prefix" limits:"1..128"` // bits of an IPv6 address that make a client
}

func defaultClients() Clients { return Clients{Max: 65536, IPv4Prefix: 32, IPv6Prefix: 128} }
