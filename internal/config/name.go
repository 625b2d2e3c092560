package config

import "fmt"

// MaxName is the longest name of a node, a cluster or a resource, in bytes.
const MaxName = 63

// CheckName reports what is wrong with the name of a node, a cluster or a resource; kind says
// which, for the message. A name is 1 to MaxName letters, digits, '-', '_' and '.', the first of
// them a letter or a digit: it becomes a file name, an export name, a label and a flag's value,
// and must need quoting in none of them.
func CheckName(kind, name string) error {
	if name == "" {
		return fmt.Errorf("%s has no name", kind)
	}
	if len(name) > MaxName {
		return fmt.Errorf("%s name %.20q... is %d bytes long; at most %d are allowed", kind, name, len(name), MaxName)
	}
	for i := 0; i < len(name); i++ {
		c := name[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if alnum || i > 0 && (c == '-' || c == '_' || c == '.') {
			continue
		}
		return fmt.Errorf("%s name %q: %q is not allowed at position %d; use letters, digits, '-', '_' and '.', and begin with a letter or a digit",
			kind, name, c, i+1)
	}
	return nil
}
