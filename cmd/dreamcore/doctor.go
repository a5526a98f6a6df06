package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/operate/doctor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

func newDoctorCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this machine and say what stands in the way",
		Long: "Checks the kernel, control groups, namespaces, disk, clock, port, secrets, a real\n" +
			"sandbox, and the agent in one. Each finding names what mends it. Exit code 1 when\n" +
			"one has failed; a warning does not count. It pulls no image and asks no upstream.",
		Example: "  sudo dreamcore doctor\n  sudo dreamcore doctor --image debian:12",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return runDoctor(c.Context(), a) },
	}
	a.addSettings(c, listenSetting, modelScriptSetting, rootfsSetting, imageSetting, runtimeSetting)
	return c
}

func runDoctor(ctx context.Context, a *app) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	checks := doctor.Machine(cfg.State, cfg.Listen, engine.Unlimited())
	d := &doctorMachine{app: a}
	defer d.close()
	checks = append(checks,
		doctor.Check{Name: "disk bound", Needs: []string{doctor.NameRoot, "disk"}, Run: d.diskBound},
		doctor.Check{Name: "secrets", Needs: []string{doctor.NameRoot}, Run: d.secrets},
		doctor.Check{Name: "model", Needs: []string{"secrets"}, Run: d.model},
		doctor.Check{Name: "prompts", Needs: []string{doctor.NameRoot}, Run: d.prompts},
		doctor.Check{Name: "sandbox", Needs: []string{doctor.NameRoot, doctor.NameCgroups, "disk"}, Run: d.sandbox},
		doctor.Check{Name: "isolation", Needs: []string{"sandbox"}, Run: d.isolation},
		doctor.Check{Name: "agent", Needs: []string{doctor.NameRoot}, Run: d.agent},
		doctor.Check{Name: "agent in a sandbox", Needs: []string{"sandbox", "agent"}, Run: d.agentInSandbox},
	)
	p := a.io.Human()
	if !a.io.JSON {
		p.Heading("dreamcore doctor", cfg.State)
	}
	progress := p.Progress("Looking")
	defer progress.Stop()
	begin := progress.Update
	if !p.Terminal() {
		begin = func(string) {} // the findings will do
	}
	report := doctor.Run(ctx, checks, begin, func(f doctor.Finding) {
		if !a.io.JSON {
			showFinding(p, f)
		}
	})
	progress.Stop()
	if a.io.JSON {
		if err := a.io.WriteJSON(report); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if report.Healthy {
		if !a.io.JSON {
			p.Print("")
			p.Success("Nothing stands in the way")
		}
		return nil
	}
	return errors.Join(errReported, errors.New("something stands in the way"))
}

func showFinding(p *term.Printer, f doctor.Finding) {
	mark := map[doctor.Status]term.Mark{
		doctor.OK: term.Done, doctor.Warn: term.Warned, doctor.Fail: term.Failed, doctor.Skipped: term.Skipped,
	}[f.Status]
	p.Status(mark, f.Name, f.Detail)
	if f.Fix != "" {
		p.Hint(f.Fix)
	}
}

// doctorMachine opens what the checks need, once, and says so where it cannot.
type doctorMachine struct {
	app     *app
	state   *daemon.State // nil until open
	machine *daemon.Machine
}

func (d *doctorMachine) open() error {
	if d.state != nil {
		return nil
	}
	s, err := d.app.open()
	if err != nil {
		return err
	}
	d.state = s
	return nil
}

func (d *doctorMachine) close() {
	var err error
	if d.machine != nil {
		err = d.machine.Close()
	}
	if d.state != nil {
		err = errors.Join(err, d.state.Close())
	}
	if err != nil {
		d.app.io.RenderError(err)
	}
}

func (d *doctorMachine) diskBound(ctx context.Context) (string, error) {
	if err := d.open(); err != nil {
		return "", err
	}
	if err := d.state.Volumes.CheckFree(); err != nil {
		return "", err
	}
	mib := d.state.Config.DiskMiB
	if mib == 0 {
		return "", &doctor.Concern{Message: "what a user writes is bounded by nothing but the disk", Fix: "set disk_mib to the MiB that each user may have"}
	}
	if err := disk.Check(ctx, d.state.Config.State); err != nil {
		return "", err
	}
	kept := term.Size(int64(d.state.Config.MinFreeDiskMiB) << 20)
	return fmt.Sprintf("%s for each user, tried; %s are kept free", term.Size(int64(mib)<<20), kept), nil
}

func (d *doctorMachine) secrets(context.Context) (string, error) {
	if err := d.open(); err != nil {
		return "", err
	}
	store, err := d.state.OpenSecrets()
	if err != nil {
		return "", err
	}
	values, err := store.InternalValues()
	if err != nil {
		return "", err
	}
	if len(values) > 1 {
		return "the internal secret is there, and the one before it is still valid", nil
	}
	return "the internal secret is there", nil
}

func (d *doctorMachine) model(context.Context) (string, error) {
	cfg := d.state.Config
	if cfg.ModelScript != "" {
		if _, err := replay.Load(cfg.ModelScript); err != nil {
			return "", err
		}
		return "script " + cfg.ModelScript, nil
	}
	if len(cfg.Upstreams) > 0 {
		return d.upstreams()
	}
	if d.state.CheckModel() != nil {
		return "", &doctor.Concern{
			Message: "there is no " + secret.AnthropicSecret + ": games are made by the demo script",
			Fix:     "run: dreamcore setup --anthropic-key-file FILE",
		}
	}
	return cfg.Upstream + ", with a key", nil
}

// upstreams checks what each one of the list is used with, and that it has a
// name for the agent's model.
func (d *doctorMachine) upstreams() (string, error) {
	var faults, hints []string
	note := func(err error) { faults, hints = append(faults, err.Error()), append(hints, dreamcore.HintOf(err)) }
	credentials, models := d.state.UpstreamFaults()
	for _, err := range credentials {
		note(err)
	}
	if len(faults) == len(d.state.Config.Upstreams) {
		return "", &dreamcore.Error{Code: dreamcore.CodeSetup, Message: strings.Join(faults, "; "), Hint: hints[0]}
	}
	for _, err := range models {
		note(err)
	}
	if len(faults) == 0 {
		return daemon.ModelTitle(d.state.Config), nil
	}
	return "", &doctor.Concern{Message: strings.Join(faults, "; "), Fix: strings.Join(slices.Compact(hints), "; ")}
}

func (d *doctorMachine) sandbox(ctx context.Context) (string, error) {
	if err := d.open(); err != nil {
		return "", err
	}
	s := *d.state
	s.Config.ModelScript = replay.DemoName // no check asks the model
	s.Pull = nil                           // one that is missing is a finding
	bin, _ := s.Agent()                    // has a check of its own
	m, err := daemon.OpenMachine(ctx, &s, bin, d.app.logger("error"))
	if err != nil {
		return "", err
	}
	d.machine = m
	began := time.Now()
	io, err := m.Prober.SandboxIO(ctx)
	if err != nil {
		return "", err
	}
	if !io.Match {
		return "", fmt.Errorf("a program in a sandbox answered %q to %q", io.Output, io.Input)
	}
	return fmt.Sprintf("%s: started, ran a program, ended in %s", m.Sandboxes(), term.Duration(time.Since(began))), nil
}

func (d *doctorMachine) isolation(ctx context.Context) (string, error) {
	k, err := d.machine.Prober.GVisor(ctx)
	if err != nil {
		return "", err
	}
	if !k.IsGVisor {
		return "", &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the kernel inside is not gVisor's: " + k.ProcVersion, Hint: "do not serve strangers from this machine"}
	}
	return k.ProcVersion, nil
}

func (d *doctorMachine) agent(context.Context) (string, error) {
	if err := d.open(); err != nil {
		return "", err
	}
	bin, err := d.state.Agent()
	if err != nil {
		return "", err
	}
	return "Claude Code " + bin.Version, nil
}

func (d *doctorMachine) agentInSandbox(ctx context.Context) (string, error) {
	began := time.Now()
	version, err := d.machine.Jobs.Prove(ctx)
	if err != nil {
		return "", &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the agent does not work in a sandbox", Err: err, Hint: cmp.Or(dreamcore.HintOf(err), "run: dreamcore setup")}
	}
	return fmt.Sprintf("Claude Code %s wrote a file and ran a command in %s", version, term.Duration(time.Since(began))), nil
}

// prompts is the doctor's check of the files of prompt endpoints.
func (d *doctorMachine) prompts(context.Context) (string, error) {
	if err := d.open(); err != nil {
		return "", err
	}
	set, err := d.state.OpenPrompts(nil)
	if err != nil {
		return "", err
	}
	names, _ := set.Names()
	problems := set.Problems()
	if len(problems) == 0 {
		return fmt.Sprintf("%d endpoints", len(names)), nil
	}
	message := fmt.Sprintf("%s: %v", problems[0].File, problems[0].Err)
	if more := len(problems) - 1; more > 0 {
		message += fmt.Sprintf(" (and %d more files)", more)
	}
	return "", &doctor.Concern{Message: message, Fix: "run: dreamcore prompts check"}
}
