package pki

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// OpenClient reads what WriteClient wrote. Such files are renewed by making them anew, so whoever
// connects for a long time reads them for each connection.
func OpenClient(dir string, clock Clock) (*Identity, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca-cert.pem"))
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	bundle, err := ParseBundle(ca)
	if err != nil {
		return nil, fmt.Errorf("client certificate %s: %w", dir, err)
	}
	cert, err := os.ReadFile(filepath.Join(dir, "client-cert.pem"))
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	key, err := readSecret(filepath.Join(dir, "client-key.pem"))
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	certs, none, err := decodePEM(cert)
	if err == nil && (len(certs) != 1 || len(none) > 0) {
		err = errors.New("want one certificate and no key in client-cert.pem")
	}
	if err != nil {
		return nil, fmt.Errorf("client certificate %s: %w", dir, err)
	}
	more, keys, err := decodePEM(key)
	if err == nil && (len(keys) != 1 || len(more) > 0) {
		err = errors.New("want one key and no certificate in client-key.pem")
	}
	if err != nil {
		return nil, fmt.Errorf("client certificate %s: %w", dir, err)
	}
	i := &Identity{cfg: Config{Dir: dir, Clock: clock}}
	cur, err := newCurrent(Credentials{Cert: certs[0], Key: keys[0]}, bundle, certs[0].NotBefore)
	if err != nil {
		return nil, fmt.Errorf("client certificate %s: %w", dir, err)
	}
	i.cur.Store(cur)
	return i, nil
}
