package pki

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxBundle is far more than the two that a change of authority needs.
const maxBundle = 8

// Bundle is the authorities that are believed, oldest first. It never changes; the zero value
// believes nobody.
type Bundle struct {
	certs []*x509.Certificate
}

// ParseBundle reads what PEM wrote.
func ParseBundle(b []byte) (Bundle, error) {
	certs, keys, err := decodePEM(b)
	if err != nil {
		return Bundle{}, fmt.Errorf("bundle: %w", err)
	}
	if len(keys) > 0 {
		return Bundle{}, errors.New("bundle: there is a private key in it, which nobody but its owner may have")
	}
	if len(certs) == 0 {
		return Bundle{}, errors.New("bundle: no certificate in it")
	}
	var out Bundle
	for _, c := range certs {
		if out, err = out.With(c); err != nil {
			return Bundle{}, err
		}
	}
	return out, nil
}

// checkAuthority returns whose authority cert is, if it is one.
func checkAuthority(cert *x509.Certificate) (ClusterID, error) {
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return "", fmt.Errorf("%w: not of an authority", ErrBadCertificate)
	case len(cert.Subject.Organization) != 1:
		return "", fmt.Errorf("%w: authority of no cluster", ErrBadCertificate)
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return "", fmt.Errorf("%w: authority that does not sign itself: %w", ErrBadCertificate, err)
	}
	c := ClusterID(cert.Subject.Organization[0])
	return c, c.check()
}

// With returns b with one more authority, of the same cluster.
func (b Bundle) With(cert *x509.Certificate) (Bundle, error) {
	cluster, err := checkAuthority(cert)
	if err != nil {
		return Bundle{}, fmt.Errorf("bundle: %w", err)
	}
	if of := b.Cluster(); of != "" && of != cluster {
		return Bundle{}, fmt.Errorf("bundle of cluster %s: authority of %s: %w", of, cluster, ErrOtherCluster)
	}
	if slices.ContainsFunc(b.certs, cert.Equal) {
		return b, nil
	}
	if len(b.certs) == maxBundle {
		return Bundle{}, fmt.Errorf("bundle: more than %d authorities", maxBundle)
	}
	return Bundle{certs: append(slices.Clone(b.certs), cert)}, nil
}

// Without returns b without the authority that has this key.
func (b Bundle) Without(key KeyHash) Bundle {
	return Bundle{certs: slices.DeleteFunc(slices.Clone(b.certs), func(c *x509.Certificate) bool { return keyHash(c) == key })}
}

// Cluster returns whose authorities these are; "" of an empty bundle.
func (b Bundle) Cluster() ClusterID {
	if len(b.certs) == 0 {
		return ""
	}
	return ClusterID(b.certs[0].Subject.Organization[0])
}

// Keys returns the hashes of the authorities' keys, in order.
func (b Bundle) Keys() []KeyHash {
	var out []KeyHash
	for _, c := range b.certs {
		out = append(out, keyHash(c))
	}
	return out
}

// PEM returns b as text.
func (b Bundle) PEM() []byte {
	var out bytes.Buffer
	for _, c := range b.certs {
		out.Write(encodeCert(c))
	}
	return out.Bytes()
}

// issuer returns the authority that signed cert, or nil.
func (b Bundle) issuer(cert *x509.Certificate) *x509.Certificate {
	for _, c := range b.certs {
		if cert.CheckSignatureFrom(c) == nil {
			return c
		}
	}
	return nil
}

// verify returns the holder of cert when steps 1 to 3 of the package comment say so. A usage of
// ExtKeyUsageAny leaves out what the certificate is for.
func (b Bundle) verify(cert *x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (Peer, error) {
	p, claim := claims(cert)
	who := p.String() // what it says, to be shown with a refusal
	if claim != nil {
		who = fmt.Sprintf("%.80q", cert.Subject)
	}
	at, err := within(cert, now)
	if err != nil {
		return Peer{}, fmt.Errorf("%s: %w", who, err)
	}
	roots := x509.NewCertPool()
	for _, c := range b.certs {
		roots.AddCert(c)
	}
	// No intermediates: an authority signs certificates, and nobody in its name.
	_, err = cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return Peer{}, fmt.Errorf("%s: %w (%w)", who, reasonOf(err), err)
	}
	switch {
	case claim != nil:
		return Peer{}, fmt.Errorf("%s: %w: %w", who, ErrBadCertificate, claim)
	case cert.IsCA:
		return Peer{}, fmt.Errorf("%s: %w: it is of an authority", who, ErrBadCertificate)
	case p.Cluster != b.Cluster():
		return Peer{}, fmt.Errorf("%s: %w; this is %s", who, ErrOtherCluster, b.Cluster())
	}
	return p, nil
}

// reasonOf returns the sentinel for an error of x509's Verify.
func reasonOf(err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) {
		switch invalid.Reason {
		case x509.Expired: // of the authority: the certificate's own time was looked at before
			return ErrExpired
		case x509.IncompatibleUsage:
			return ErrUsage
		}
		return ErrBadCertificate
	}
	return ErrUntrusted
}

// within returns the moment at which to check cert: now, or, if that is no more than ClockSkew
// outside its time, the end of its time that is nearer.
func within(cert *x509.Certificate, now time.Time) (time.Time, error) {
	switch {
	case now.Before(cert.NotBefore.Add(-ClockSkew)):
		return now, fmt.Errorf("%w: it begins %s, here it is %s", ErrNotYetValid, text(cert.NotBefore), text(now))
	case now.After(cert.NotAfter.Add(ClockSkew)):
		return now, fmt.Errorf("%w: it ended %s, here it is %s", ErrExpired, text(cert.NotAfter), text(now))
	case now.Before(cert.NotBefore):
		return cert.NotBefore, nil
	case now.After(cert.NotAfter):
		return cert.NotAfter, nil
	}
	return now, nil
}

func text(t time.Time) string { return t.UTC().Format(time.RFC3339) }
