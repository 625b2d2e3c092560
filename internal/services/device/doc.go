// Package device makes the kernel's block device of a resource one of the services that follow its primary:
// attached where the resource is served, before what is mounted on it, and detached after it.
//
// It runs `lockstep attach` and `lockstep detach` as an operator would (package attach says what they do), so that
// a device of a service and one made by hand are the same thing, with the same messages.
//
// # Whose attachment it is
//
// While a resource is attached for one host alone, nobody else gets it; and a primary that was lost cannot
// detach. So an attachment of a service says who it is (Holder), and the next primary ends it before it attaches
// its own: Config.Release. It ends no other one. What an operator attached somewhere by hand is held by that
// host, and the start fails with its name.
//
// Nothing that the former holder sent is applied after that (docs/decisions/0018): its requests fail, its device
// goes away, and what is mounted on it can be unmounted, since the kernel waits for nothing any more.
//
// # A relay that has died
//
// Whoever uses its device waits, and so would an unmount. Monitor and Resume start another one, which takes the
// device up.
package device
