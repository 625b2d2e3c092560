package fencing

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// hidden stands in the place of a secret.
const hidden = "(hidden)"

// Option is one key=value for a device. It prints without its value when that is a secret.
type Option struct {
	Name  string
	Value string
}

// Secret reports whether the option's value must not be shown, judged by its name.
func (o Option) Secret() bool {
	name := strings.ToLower(o.Name)
	for _, place := range []string{"_file", "_env", "_script", "_timeout", "_prompt"} {
		if strings.HasSuffix(name, place) {
			return false // where the secret is, or how it is asked for
		}
	}
	return slices.ContainsFunc([]string{"pass", "secret", "token", "community", "api_key", "apikey"},
		func(part string) bool { return strings.Contains(name, part) })
}

func (o Option) String() string {
	if o.Secret() {
		return o.Name + "=" + hidden
	}
	return o.Name + "=" + o.Value
}

// GoString keeps %#v from printing a secret.
func (o Option) GoString() string { return o.String() }

// MarshalText keeps encoders (logs in JSON, say) from printing a secret.
func (o Option) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// password is where the password of a device comes from, when it is no option.
type password struct {
	file string
	env  string
}

// read returns the password; set is false when none is configured. It is read at each run, so that
// it can be changed without a restart.
func (p password) read() (value string, set bool, err error) {
	switch {
	case p.file != "":
		value, err = readPasswordFile(p.file)
	case p.env != "":
		value = os.Getenv(p.env)
		if value == "" {
			err = fmt.Errorf("the environment variable %s, which is to hold the password, is not set", p.env)
		}
	default:
		return "", false, nil
	}
	if err != nil {
		return "", true, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return value, true, nil
}

// readPasswordFile reads one line from a file that nobody but its owner may read or write.
func readPasswordFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return "", fmt.Errorf("%s has mode %04o, so others may use the password; run: chmod 600 %s", path, perm, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 4<<10))
	if err != nil {
		return "", err
	}
	text := strings.TrimRight(string(b), "\r\n")
	if text == "" {
		return "", fmt.Errorf("%s holds no password", path)
	}
	return text, nil
}

// secretsOf returns the values that must not be shown, the longest first: one may be part of
// another.
func secretsOf(options []Option, password string) []string {
	var out []string
	for _, o := range options {
		if o.Secret() && o.Value != "" {
			out = append(out, o.Value)
		}
	}
	if password != "" {
		out = append(out, password)
	}
	slices.SortFunc(out, func(a, b string) int { return len(b) - len(a) })
	return out
}

// hide replaces each of the secrets in text.
func hide(text string, secrets []string) string {
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, hidden)
	}
	return text
}
