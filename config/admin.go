package config

// Admin says where the admin API is.
type Admin struct {
	Socket string // path
}

// adminSection is the section as it stands in a file.
type adminSection struct {
	Socket  string `mapstructure:"socket" is:"socket"`
	Metrics notYet `mapstructure:"metrics"`
}

func defaultAdmin() adminSection { return adminSection{Socket: "/run/webknock/webknock.sock"} }

func (s adminSection) admin() Admin { return Admin{Socket: s.Socket} }
