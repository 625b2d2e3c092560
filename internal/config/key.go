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

// readKeyFile reads a key from a file that nobody but its owner may read or write.
func readKeyFile(path string) (Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return Key{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Key{}, err
	}
	if !st.Mode().IsRegular() {
		return Key{}, fmt.Errorf("%s is not a regular file", path)
	}
	if perm := st.Mode().Perm(); perm&0o077 != 0 {
		return Key{}, fmt.Errorf("%s has mode %04o, so others may use the key; run: chmod 600 %s", path, perm, path)
	}
	b, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return Key{}, err
	}
	k, err := ParseKey(strings.TrimSpace(string(b)))
	if err != nil {
		return Key{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}
