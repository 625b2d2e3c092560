//go:build plantedbugs

package sim
import ("testing";"os";"github.com/lockstep-ha/lockstep/internal/planted")
func TestZZ(t *testing.T) { b,_:=bugNamed(os.Getenv("BUG")); planted.Plant(b); t.Log(outcomeOf("testdata/scenarios/zz-debug.txt")) }
