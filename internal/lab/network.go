package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lockstep-ha/lockstep/internal/control"
)

// The network of a lab with namespaces:
//
//	lockstep-7-n1        lockstep-7-n2        lockstep-7-w         lockstep-7-client
//	eth0 10.7.0.1        eth0 10.7.0.2        eth0 10.7.0.3        eth0 10.7.0.254
//	   |                    |                    |                    |
//	   n1                   n2                   w                  client
//	   +--------------------+----- br0 ----------+--------------------+     lockstep-7-switch
//
// Each line is a pair of virtual interfaces. The switch is in a namespace of its own: the machine's
// network has no interface, address, route or filter more than before.
//
// A direction from a to b is lost like this: in a's namespace, b's address belongs to a hardware
// address that nobody has (nowhere), and the switch, which knows where everybody is and floods
// nothing, throws such a frame away. a's kernel sees each packet leave and hears nothing of it,
// established connections stall, and nobody gets an error or a reset; b still reaches a. The obvious
// ways are worse: a filter on a's way out makes send fail, a blackhole route does, too, and a filter
// on b's way in needs netfilter in the kernel. Broadcasts are not lost; only ARP sends any here, and
// with it lost one way the other way would die within a minute, as neighbours go stale.

// clientName names the namespace from which clients reach the nodes.
const clientName = "client"

const (
	switchName = "switch"
	bridgeName = "br0"
	linkName   = "eth0" // the interface of a node
)

// Ports of every node; each has an address of its own.
const (
	netPort    = 7780
	gossipPort = 7781
	nbdPort    = 10809
)

// Network is the network of a lab with namespaces.
type Network struct {
	ID    int    `json:"id"`    // x of 10.x.0.0/24 and of the names of the namespaces
	Owner string `json:"owner"` // random; the claim of the number holds the same
	// What is broken. All of it is mended when the lab goes down.
	Lost      []Loss   `json:"lost,omitempty"`
	Unplugged []string `json:"unplugged,omitempty"` // whose link is down
	Off       []string `json:"off,omitempty"`       // nodes whose host was killed
}

// Loss is a direction in which every packet is lost.
type Loss struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func (l Loss) String() string { return l.From + " -> " + l.To }

// endpoint is what has a namespace and a link to the switch: a node or the client.
type endpoint struct {
	name string
	host byte // of 10.x.0.host
}

func nsPrefix(id int) string { return fmt.Sprintf("lockstep-%d-", id) }

func (n *Network) ns(name string) string { return nsPrefix(n.ID) + name }

func (n *Network) ip(host byte) net.IP { return net.IPv4(10, byte(n.ID), 0, host).To4() }

// mac is the hardware address of a host; the first byte says that it is locally administered.
func (n *Network) mac(host byte) net.HardwareAddr {
	return net.HardwareAddr{0x02, 'L', 'S', byte(n.ID), 0, host}
}

// nowhere is a hardware address that nobody has.
func (n *Network) nowhere() net.HardwareAddr { return n.mac(0xff) }

// hostOf returns the last byte of the address of the node with an index.
func hostOf(index int) byte { return byte(1 + index) }

// endpoints lists the nodes in their order and then the client.
func (l *Lab) endpoints() []endpoint {
	var out []endpoint
	for i, n := range l.state.Nodes {
		out = append(out, endpoint{n.Name, hostOf(i)})
	}
	return append(out, endpoint{clientName, 254})
}

// requireNet is the error of what only a lab with namespaces can do.
func (l *Lab) requireNet(what string) error {
	if l.state.Net == nil {
		return control.Errorf(control.CodeUnsupported, "%s needs a lab whose nodes have networks of their own; this one is on the loopback interface", what).
			WithHint("lockstep lab up --netns --dir ANOTHER-DIR, as root")
	}
	owns, err := l.ownsNet()
	if err == nil && !owns {
		err = control.Errorf(control.CodeFailed, "the lab's network is not up").WithHint("lockstep lab up --dir %s", l.state.Dir)
	}
	return err
}

// raiseNet makes what is missing of the network and breaks what shall be broken. It changes nothing
// of a network that is as it should be.
func (l *Lab) raiseNet() error {
	if err := l.claimAgain(); err != nil {
		return err
	}
	n := l.state.Net
	if err := ensureNS(n.ns(switchName)); err != nil {
		return err
	}
	sw, err := routesOf(n.ns(switchName))
	if err != nil {
		return err
	}
	defer sw.Close()
	bridge, err := ensureBridge(sw)
	if err != nil {
		return fmt.Errorf("network of the lab: switch: %w", err)
	}
	for _, e := range l.endpoints() {
		if slices.Contains(n.Off, e.name) {
			continue
		}
		if err := n.plug(sw, bridge, e); err != nil {
			return fmt.Errorf("network of the lab: plug in %s: %w", e.name, err)
		}
	}
	return l.applyFaults(sw)
}

// ensureNS makes a namespace where there is none.
func ensureNS(ns string) error {
	have, err := nsExists(ns)
	if err != nil || have {
		return err
	}
	if err := removeNS(ns); err != nil { // a plain file of that name
		return err
	}
	return makeNS(ns)
}

func ensureBridge(sw *netlink.Handle) (netlink.Link, error) {
	bridge, err := sw.LinkByName(bridgeName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = bridgeName
		if err := sw.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, err
		}
		bridge, err = sw.LinkByName(bridgeName)
	}
	if err != nil {
		return nil, err
	}
	return bridge, sw.LinkSetUp(bridge)
}

// plug gives an endpoint its namespace and its link to the switch. A link that was half made is made
// anew.
func (n *Network) plug(sw *netlink.Handle, bridge netlink.Link, e endpoint) error {
	ns := n.ns(e.name)
	if err := ensureNS(ns); err != nil {
		return err
	}
	h, err := routesOf(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	if link, err := h.LinkByName(linkName); err == nil && link.Attrs().Flags&net.FlagUp != 0 {
		return nil // it is brought up last
	}
	if err := unplug(sw, e.name); err != nil {
		return err
	}
	if err := n.addLink(sw, bridge, e); err != nil {
		return err
	}
	link, err := h.LinkByName(linkName)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: n.ip(e.host), Mask: net.CIDRMask(24, 32)}}
	if err := h.AddrReplace(link, addr); err != nil {
		return err
	}
	return h.LinkSetUp(link)
}

// addLink makes the link between the switch and an endpoint's namespace. The switch is told where
// everybody is instead of learning it, and floods no frame whose receiver it does not know.
func (n *Network) addLink(sw *netlink.Handle, bridge netlink.Link, e endpoint) error {
	f, err := os.Open(nsPath(n.ns(e.name)))
	if err != nil {
		return err
	}
	defer f.Close()
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name, veth.PeerName, veth.PeerHardwareAddr = e.name, linkName, n.mac(e.host)
	veth.PeerNamespace = netlink.NsFd(f.Fd())
	if err := sw.LinkAdd(veth); err != nil {
		return err
	}
	port, err := sw.LinkByName(e.name)
	if err != nil {
		return err
	}
	if err := sw.LinkSetMaster(port, bridge); err != nil {
		return err
	}
	if err := sw.LinkSetLearning(port, false); err != nil {
		return err
	}
	if err := sw.LinkSetFlood(port, false); err != nil {
		return err
	}
	return sw.NeighSet(&netlink.Neigh{
		LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER,
		State: netlink.NUD_NOARP, HardwareAddr: n.mac(e.host), // NOARP: static, in a bridge's words
	})
}

// unplug takes an endpoint's link away, both ends of it.
func unplug(sw *netlink.Handle, name string) error {
	port, err := sw.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	return sw.LinkDel(port)
}

// removeNet removes the network, whatever there is of it, and gives the claim back. Links go first:
// a shell that somebody still has in a namespace keeps that, and must not keep a link in it.
func (l *Lab) removeNet() error {
	n := l.state.Net
	n.Lost, n.Unplugged, n.Off = nil, nil, nil
	release, err := lockClaims()
	if err != nil {
		return err
	}
	defer release()
	owns, err := l.ownsNet()
	if err != nil || !owns {
		return err // what bears the number, if anything does, is another's
	}
	have, err := nsExists(n.ns(switchName))
	if err != nil {
		return err
	}
	if have {
		sw, err := routesOf(n.ns(switchName))
		if err != nil {
			return err
		}
		defer sw.Close()
		for _, e := range l.endpoints() {
			if err := unplug(sw, e.name); err != nil {
				return fmt.Errorf("network of the lab: unplug %s: %w", e.name, err)
			}
		}
	}
	names, err := namespacesOf(n.ID)
	if err != nil {
		return err
	}
	for _, ns := range names {
		if err := removeNS(ns); err != nil {
			return err
		}
	}
	return os.Remove(claimPath(n.ID))
}
