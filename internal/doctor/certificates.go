package doctor

import (
	"fmt"
	"time"
)

// How long before its end something that proves who a node is is found. Nodes renew by themselves when two
// thirds of a certificate's 90 days are over, so that a month is left when the first try has failed. An
// authority is changed by hands, and all certificates with it.
const (
	certificateDanger = 7 * day
	authorityWarn     = 180 * day
	authorityDanger   = 30 * day
	day               = 24 * time.Hour
)

// certificates finds those that end soon, and what would renew them.
func certificates(f *findings, c *Cluster) {
	any, signs, bad := false, false, len(f.all)
	for _, n := range c.Nodes {
		if n.Facts == nil || n.Facts.Certificate == nil {
			continue
		}
		any = true
		x := n.Facts.Certificate
		signs = signs || x.Signs
		why := "When it has ended, the other nodes refuse this one: no replication, no vote."
		if x.Problem != "" {
			why += " It was last not renewed because of this: " + x.Problem + "."
		}
		next := "start the node that has ca.key; then: lockstep cluster renew --node " + n.Name
		switch {
		case x.Left <= 0:
			f.add(codeCertificate, Danger, n.Name, why, next, "the certificate of %s ended on %s", n.Name, x.Ends.Format(time.DateOnly))
		case x.Due && x.Left <= certificateDanger:
			f.add(codeCertificate, Danger, n.Name, why, next, "the certificate of %s ends in %s and was not renewed", n.Name, days(x.Left))
		case x.Due:
			f.add(codeCertificate, Warning, n.Name, why, next, "the certificate of %s ends in %s, is due and was not renewed", n.Name, days(x.Left))
		}
	}
	if !any {
		return
	}
	authority(f, c)
	if !signs {
		f.add(codeSigner, Note, "cluster", "Certificates are due every 60 days, and nobody joins meanwhile. That is as it should be if you keep the key offline and bring it in time.",
			"put ca.key and ca.crt into the pki directory of a node and restart it, now and then", "no node that answers has the authority's key")
	}
	if len(f.all) == bad {
		f.fine(codeCertificate, "cluster", "certificates are renewed in time, and the authority does not end soon")
	}
}

// authority finds one that ends soon; the certificates that it signed are the newest it will.
func authority(f *findings, c *Cluster) {
	var first *Node
	for i := range c.Nodes {
		n := &c.Nodes[i]
		if n.Facts == nil || n.Facts.Certificate == nil {
			continue
		}
		if first == nil || n.Facts.Certificate.AuthorityLeft < first.Facts.Certificate.AuthorityLeft {
			first = n
		}
	}
	x := first.Facts.Certificate
	s := Warning
	switch {
	case x.AuthorityLeft > authorityWarn:
		return
	case x.AuthorityLeft <= authorityDanger:
		s = Danger
	}
	f.add(codeAuthority, s, "cluster", "No certificate that it signs is good for longer, so on that day all nodes whose certificates are of it refuse each other.",
		"change the authority while all nodes know it: docs/operations.md, rotate keys",
		"the authority that signed the certificate of %s ends on %s, in %s", first.Name, x.AuthorityEnds.Format(time.DateOnly), days(x.AuthorityLeft))
}

// days writes a time that is left for people.
func days(d time.Duration) string {
	switch n := int(d / day); {
	case d <= 0:
		return "no time"
	case n == 0:
		return "less than a day"
	case n == 1:
		return "1 day"
	default:
		return fmt.Sprintf("%d days", n)
	}
}
