package show

import (
	"fmt"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Sandboxes shows the sandboxes of a service.
func Sandboxes(io *term.IO, sandboxes []workspace.Info, now time.Time) error {
	return List[workspace.Info]{
		Key: "sandboxes", Columns: Columns("NAME", "STATE", "AGENT", "SANDBOX", ">JOBS", ">AGE", ">LAST USED"), Empty: "no sandboxes",
		Cells: func(s workspace.Info) []string {
			agent := ""
			if s.AgentWarm {
				agent = "warm"
			}
			return []string{s.Name, string(s.State), agent, s.Sandbox, strconv.Itoa(s.Jobs), Age(now.Sub(s.Created)), Age(now.Sub(s.LastUsed))}
		},
	}.Show(io, sandboxes, nil)
}

// Age formats the time since something happened: "now", "5s", "12m", "3h05m",
// "4d".
func Age(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}
