package config

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// KeyLen is the length of the cluster's shared key in bytes.
const KeyLen = 32

// Key is the secret that every node of a cluster shares. It prints as a placeholder, so that it
// cannot end in a log by accident; the zero Key means none.
type Key [KeyLen]byte

// NewKey makes a random key.
func NewKey() Key {
	var k Key
	rand.Read(k[:]) // never fails: the runtime ends the process when the kernel gives no randomness
	return k
}

// ParseKey reads a key from the standard base64 text of its 32 bytes.
func ParseKey(text string) (Key, error) {
	var k Key
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return k, errors.New("the key is not base64; make one with: head -c 32 /dev/urandom | base64")
	}
	if len(b) != KeyLen {
		return k, fmt.Errorf("the key has %d bytes, not %d; make one with: head -c 32 /dev/urandom | base64", len(b), KeyLen)
	}
	copy(k[:], b)
	if k.IsZero() {
		return k, errors.New("the key is all zeros, which anybody can guess; make one with: head -c 32 /dev/urandom | base64")
	}
	return k, nil
}

// Encode returns the base64 text that ParseKey reads. It is a secret.
func (k Key) Encode() string { return base64.StdEncoding.EncodeToString(k[:]) }

// IsZero reports whether k was never set.
func (k Key) IsZero() bool { return k == Key{} }

func (k Key) String() string {
	if k.IsZero() {
		return "(no key)"
	}
	return "(key)"
}

// GoString keeps %#v from printing the secret.
func (k Key) GoString() string { return k.String() }

// MarshalText keeps encoders (logs in JSON, say) from printing the secret.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// MaxKeys is how many keys a file may hold: the one in use, one that comes or goes, and those of changes that
// were begun again.
const MaxKeys = 5

// ReadKeys reads keys from a file that nobody but its owner may read or write, one on each line. The first
// is the one to use; the others are believed, too, while the key is changed.
func ReadKeys(path string) ([]Key, error) {
	b, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	var out []Key
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		k, err := ParseKey(line)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, k)
	}
	if len(out) == 0 || len(out) > MaxKeys {
		return nil, fmt.Errorf("%s holds %d keys, want 1 to %d, each on a line", path, len(out), MaxKeys)
	}
	return out, nil
}

func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, so others may use the key; run: chmod 600 %s", path, perm, path)
	}
	return io.ReadAll(io.LimitReader(f, 1024))
}
