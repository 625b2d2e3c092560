package config

import "net"

// The values of NBDTLS.
const (
	TLSRequired = "required"
	TLSAllowed  = "allowed"
	TLSOff      = "off"
)

// ClientCertsRequired is the value of NBDClientCerts that demands them.
const ClientCertsRequired = "require"

// NBDMode returns what NBDListen asks of clients, with the default in place.
func (n *Node) NBDMode() string {
	host, _, err := net.SplitHostPort(n.NBDListen)
	switch {
	case n.NBDTLS != "":
		return n.NBDTLS
	case n.PKIDir == "":
		return TLSOff
	case err == nil && isLoopback(host):
		return TLSAllowed
	}
	return TLSRequired
}

// protects reports whether what is said at the address under key is safe on any network. An nbd_tls
// that is written down counts: whoever wrote it has decided.
func (n *Node) protects(key string) bool {
	switch {
	case n.PKIDir == "" || key == "health_listen":
		return false
	case key == "nbd_listen":
		return n.NBDMode() == TLSRequired || n.NBDTLS != ""
	}
	return true
}

func (n *Node) validateTLS(fs *Faults) {
	if n.NBDTLS != "" {
		oneOf(fs, "nbd_tls", n.NBDTLS, TLSRequired, TLSAllowed, TLSOff)
	}
	if n.NBDClientCerts != "" {
		oneOf(fs, "nbd_client_certs", n.NBDClientCerts, ClientCertsRequired)
	}
	switch {
	case n.PKIDir != "":
	case !n.ReplicationTLS:
		fs.add("replication_tls", "replication_tls is false, but there is no pki_dir, so nothing is encrypted anyway; remove the line")
	case n.NBDTLS == TLSRequired || n.NBDTLS == TLSAllowed:
		fs.add("nbd_tls", "nbd_tls is %q, but there is no pki_dir to take a certificate from; form the cluster with: lockstep cluster init", n.NBDTLS)
	}
	if n.NBDClientCerts == ClientCertsRequired && n.NBDMode() != TLSRequired {
		fs.add("nbd_client_certs", "nbd_client_certs is %q, but clients may connect without TLS and show none; set nbd_tls = %q", n.NBDClientCerts, TLSRequired)
	}
}
