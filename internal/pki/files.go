package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

const (
	fileCACert   = "ca.crt"
	fileCAKey    = "ca.key"
	fileIdentity = "identity.pem"
	fileBundle   = "bundle.pem"
)

const (
	pemCert = "CERTIFICATE"
	pemKey  = "PRIVATE KEY" // PKCS #8
)

// writeFile makes name in dir hold data, or leaves it as it was, whenever the host stops.
func writeFile(dir, name string, data []byte) (err error) {
	f, err := os.CreateTemp(dir, "."+name+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), filepath.Join(dir, name)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readSecret reads a file with a key in it, which nobody else may read.
func readSecret(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o); next: chmod 600 %s, and renew what is in it if others had a look", path, mode, path)
	}
	return os.ReadFile(path)
}

func encodeCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: cert.Raw})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// decodePEM returns the blocks of b, which may hold nothing else but comments.
func decodePEM(b []byte) (certs []*x509.Certificate, keys []*ecdsa.PrivateKey, err error) {
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			return certs, keys, nil
		}
		switch block.Type {
		case pemCert:
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, cert)
		case pemKey:
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, nil, errors.New("the private key cannot be parsed") // no part of it in a message
			}
			key, ok := k.(*ecdsa.PrivateKey)
			if !ok {
				return nil, nil, fmt.Errorf("private key is a %T, want ECDSA", k)
			}
			keys = append(keys, key)
		default:
			return nil, nil, fmt.Errorf("PEM block %.40q is neither %q nor %q", block.Type, pemCert, pemKey)
		}
	}
}

// Credentials are a certificate and the key to it.
type Credentials struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// check reports whether the two belong together.
func (c Credentials) check() error {
	if c.Cert == nil || c.Key == nil {
		return errors.New("certificate or key is missing")
	}
	if !c.Key.PublicKey.Equal(c.Cert.PublicKey) {
		return errors.New("the key is not that of the certificate")
	}
	return nil
}

func (c Credentials) encode() ([]byte, error) {
	key, err := encodeKey(c.Key)
	if err != nil {
		return nil, err
	}
	return append(encodeCert(c.Cert), key...), nil
}

func decodeCredentials(b []byte) (Credentials, error) {
	certs, keys, err := decodePEM(b)
	if err != nil {
		return Credentials{}, err
	}
	if len(certs) != 1 || len(keys) != 1 {
		return Credentials{}, fmt.Errorf("%d certificates and %d keys, want one of each", len(certs), len(keys))
	}
	c := Credentials{Cert: certs[0], Key: keys[0]}
	return c, c.check()
}

// WriteClient writes what a client outside of this system needs into dir, under the names that
// both libnbd and qemu (tls-creds-x509, endpoint=client) look for.
func WriteClient(dir string, c Credentials, b Bundle) error {
	if err := c.check(); err != nil {
		return err
	}
	key, err := encodeKey(c.Key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{"ca-cert.pem", b.PEM()}, {"client-cert.pem", encodeCert(c.Cert)}, {"client-key.pem", key},
	} {
		if err := writeFile(dir, f.name, f.data); err != nil {
			return fmt.Errorf("write %s: %w", filepath.Join(dir, f.name), err)
		}
	}
	return nil
}
