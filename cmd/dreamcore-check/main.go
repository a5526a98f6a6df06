// Command dreamcore-check is the program inside sandboxes that checks whether a
// game plays: "serve DIR" serves the project on the loopback, and "browse
// [--browser PATH]" drives a headless browser over it. The two run as different
// users, because the page that the browser opens is hostile.
// scripts/supervisor.sh embeds it in dreamcore.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/browser"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/site"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		return site.Main(ctx, args[1], os.Stdout)
	case len(args) == 1 && args[0] == "browse":
		return browser.Main(ctx, "", os.Stdin, os.Stdout)
	case len(args) == 3 && args[0] == "browse" && args[1] == "--browser":
		return browser.Main(ctx, args[2], os.Stdin, os.Stdout)
	}
	return errors.New("usage: dreamcore-check serve DIR | browse [--browser PATH]")
}
