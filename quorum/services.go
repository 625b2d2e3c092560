package quorum

// Bounds of the services of a resource. What a service means is for the nodes that run it to judge: the
// ledger only keeps the words, the same on all of them.
const (
	MaxServices       = 64
	MaxServiceOptions = 64
	MaxServiceText    = 4096 // bytes of a target or of an option
)

// Service is one thing that follows the primary: a mount, an address, a unit, an agent.
type Service struct {
	Kind           string   `json:"kind"`
	Target         string   `json:"target"`
	Options        []string `json:"options,omitempty"` // name=value
	StartTimeout   Duration `json:"start_timeout,omitempty"`
	StopTimeout    Duration `json:"stop_timeout,omitempty"`
	MonitorTimeout Duration `json:"monitor_timeout,omitempty"`
	Interval       Duration `json:"interval,omitempty"`
	Order          int      `json:"order,omitempty"`
}

// SetServices replaces the services of a resource, and forgets on which nodes they failed: what failed is
// not what is wanted now.
type SetServices struct {
	Services []Service `json:"services"`
}

// ServicesFailed records that the services failed on Node, where they are not tried again until it is taken
// back with an empty Text. It has no effect on roles or on the set.
type ServicesFailed struct {
	Node string `json:"node"`
	Text string `json:"text"` // why, for the operator; "": they may be tried again
}

func setServices(r *Resource, c *SetServices) error {
	r.Services = append([]Service(nil), c.Services...)
	for i := range r.Services {
		r.Services[i].Options = append([]string(nil), r.Services[i].Options...)
	}
	for i := range r.Replicas {
		r.Replicas[i].ServicesFailed = ""
	}
	return nil
}

func servicesFailed(r *Resource, c *ServicesFailed) error {
	rep := r.Replica(c.Node)
	if rep == nil {
		return refusef(ErrUnknown, "node %q has no replica of %q", c.Node, r.Name)
	}
	rep.ServicesFailed = c.Text
	return nil
}

// services notes what is wrong with a list of services.
func (f *faults) services(all []Service) {
	if len(all) > MaxServices {
		f.addf("%d services are more than %d", len(all), MaxServices)
	}
	for _, s := range all {
		f.text("kind of service", s.Kind, MaxName)
		f.text("target of a service", s.Target, MaxServiceText)
		if s.Kind == "" || s.Target == "" {
			f.addf("a service has no kind or no target")
		}
		if len(s.Options) > MaxServiceOptions {
			f.addf("%d options of a service are more than %d", len(s.Options), MaxServiceOptions)
		}
		for _, o := range s.Options {
			f.text("option of a service", o, MaxServiceText)
		}
		for _, d := range []Duration{s.StartTimeout, s.StopTimeout, s.MonitorTimeout, s.Interval} {
			if d < 0 || d > 24*3600*second {
				f.addf("%d ns of a service is not between 0 and 24 h", d)
			}
		}
		if s.Order < 0 || s.Order > MaxPriority {
			f.addf("order %d of a service is not between 0 and %d", s.Order, MaxPriority)
		}
	}
}
