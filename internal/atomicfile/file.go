package atomicfile

// A File is one file of a Dir, of limited size.
type File struct {
	Dir  *Dir
	Name string
	Max  int64 // bytes
}

// Load returns what Save wrote last, or nil if there is no such file.
func (f File) Load() ([]byte, error) { return f.Dir.Read(f.Name, f.Max) }

// Save replaces the file as a whole.
func (f File) Save(data []byte) error { return f.Dir.Write(f.Name, data) }
