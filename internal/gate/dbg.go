package gate
import ("fmt";"os";"time")
var T0 time.Time
func dbg(now time.Time, a ...any) { if os.Getenv("DBG")!="" { if T0.IsZero() {T0=now}; fmt.Fprintln(os.Stderr, append([]any{now.Sub(T0)}, a...)...) } }
