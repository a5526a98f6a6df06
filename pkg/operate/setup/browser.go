package setup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// Browser is how setup gets the browser that plays games.
type Browser struct {
	// Find returns the browser that sandboxes have, or "".
	Find func() string
	// Install is set if a missing browser is to be installed on this machine.
	Install bool
	// Elsewhere names the root file system of sandboxes if it is not this
	// machine's: a browser that is installed here does not reach them.
	Elsewhere string
	// Prove plays a game that works and one that does not, in a sandbox, and returns
	// the browser's product and version.
	Prove func(ctx context.Context) (version string, err error)
	// Update changes the text of the step that Begin has begun; it may be nil.
	Update func(doing string)
}

// browserPackage is Debian's smallest browser; fontPackage lets it draw text.
const (
	browserPackage = "chromium-headless-shell"
	fontPackage    = "fonts-dejavu-core"
)

// browserLimit bounds the installation of the browser.
const browserLimit = 15 * time.Minute

// browser finds or installs the browser. It is proven only if it is to be
// installed: doctor does that at any time.
func (r *runner) browser(ctx context.Context) error {
	b := r.Browser
	if b == nil {
		return nil
	}
	const name = "browser"
	found, status := b.Find(), Exists
	if found == "" && !b.Install {
		r.done(name, Missing, "games are not played before they are done until you run: dreamcore setup --acceptance")
		return nil
	}
	if found == "" {
		if err := r.installBrowser(ctx); err != nil {
			return err
		}
		if found, status = b.Find(), Installed; found == "" {
			return noBrowser(browserPackage+" is installed, and sandboxes have no browser", "", nil)
		}
	}
	if !b.Install {
		r.done(name, status, found)
		return nil
	}
	r.Begin("Checking the browser: two games in real sandboxes")
	version, err := b.Prove(ctx)
	if err != nil {
		return noBrowser("the browser does not work in a sandbox on this machine", dreamcore.HintOf(err), err)
	}
	r.done(name, status, found)
	r.done("browser in a sandbox", Checked, version+" has told a game that works from one that does not, under "+r.Engine)
	return nil
}

func noBrowser(message, hint string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: ReasonBrowser, Message: message, Hint: hint, Err: err}
}

// installBrowser installs Debian's packages on this machine.
func (r *runner) installBrowser(ctx context.Context) error {
	if in := r.Browser.Elsewhere; in != "" {
		return &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Reason: ReasonBrowser, Message: "sandboxes have the " + in + ", which setup does not change",
			Hint: "use one that has Debian's package " + browserPackage,
		}
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return noBrowser("there is no apt-get to install a browser with", "install Chromium or its headless shell with the package manager of this machine, "+otherBrowsers(), err)
	}
	if os.Geteuid() != 0 {
		return noBrowser("only root may install a browser", "run: sudo apt-get install "+browserPackage+" "+fontPackage, nil)
	}
	ctx, cancel := context.WithTimeout(ctx, browserLimit)
	defer cancel()
	r.Begin("Reading the lists of packages")
	if err := r.apt(ctx, apt, "update"); err != nil {
		return err
	}
	r.Begin("Installing the browser: " + browserPackage + " (about 60 MB to download)")
	return r.apt(ctx, apt, "install", "--yes", "--no-install-recommends", browserPackage, fontPackage)
}

// otherBrowsers says which browsers of other packages sandboxes can use.
func otherBrowsers() string {
	return "complete below /usr (sandboxes see no snap and no /opt), as one of: " + strings.Join(verdict.Browsers(), ", ")
}

// apt runs apt-get to its end and shows its progress.
func (r *runner) apt(ctx context.Context, apt string, args ...string) error {
	status, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer status.Close()
	cmd := exec.CommandContext(ctx, apt, append([]string{"-o", "APT::Status-Fd=3", "-o", "DPkg::Lock::Timeout=60"}, args...)...)
	cmd.Env = append(cmd.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.WaitDelay = 5 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	err = cmd.Start()
	_ = theirs.Close()
	if err == nil {
		// Children of apt-get outlive it, and hold the other end.
		stop := context.AfterFunc(ctx, func() { _ = status.Close() })
		defer stop()
		r.follow(status)
		err = cmd.Wait()
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = errors.Join(context.Cause(ctx), err)
	}
	return noBrowser("apt-get could not install the browser", "see the cause above; where there is no package "+browserPackage+", as on Ubuntu, install another browser, "+otherBrowsers(),
		errors.Join(err, errors.New(string(bytes.TrimSpace(said.Bytes())))))
}

// follow shows apt-get's progress until it closes status. Its lines are
// "dlstatus:NUMBER:PERCENT:TEXT" and "pmstatus:PACKAGE:PERCENT:TEXT".
func (r *runner) follow(status io.Reader) {
	lines := bufio.NewScanner(status)
	for lines.Scan() {
		f := strings.SplitN(lines.Text(), ":", 4)
		if len(f) < 4 || r.Browser.Update == nil {
			continue
		}
		percent, err := strconv.ParseFloat(f[2], 64)
		doing := map[string]string{"dlstatus": "Downloading the browser", "pmstatus": "Installing the browser"}[f[0]]
		if err == nil && doing != "" {
			r.Browser.Update(fmt.Sprintf("%s: %.0f %%", doing, percent))
		}
	}
	_, _ = io.Copy(io.Discard, status) // after a line that is too long, it must not block
}
