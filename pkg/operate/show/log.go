package show

import (
	"log/slog"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Logger returns a log for operators, without secrets: as text, or as JSON. An unknown
// level is info.
func Logger(p *term.Printer, r *secret.Redactor, level string, json bool) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	opts := &slog.HandlerOptions{Level: l}
	var h slog.Handler = slog.NewTextHandler(logWriter{p}, opts)
	if json {
		opts.ReplaceAttr = inSeconds
		h = slog.NewJSONHandler(logWriter{p}, opts)
	}
	return slog.New(r.Handler(h))
}

// inSeconds writes durations as seconds: JSON has no unit.
func inSeconds(_ []string, attr slog.Attr) slog.Attr {
	if attr.Value.Kind() == slog.KindDuration {
		attr.Value = slog.Float64Value(attr.Value.Duration().Seconds())
	}
	return attr
}

// logWriter writes lines of the log above the progress line, if there is one.
type logWriter struct{ p *term.Printer }

func (w logWriter) Write(line []byte) (int, error) {
	w.p.Println(strings.TrimSuffix(string(line), "\n"))
	return len(line), nil
}
