package prompt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/semaphore"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// Account is the line in the ledger for requests without a user: the operator's
// own. The limits of one user (budget_user_…, user_requests) apply to it as a
// whole, and budget_day and budget_month as to every other.
const Account = "prompts"

// Model answers calls; *gateway.Gateway is one.
type Model interface {
	// Ask returns a *gateway.HostError where the model has not answered.
	Ask(ctx context.Context, call gateway.HostCall) (gateway.HostAnswer, error)
}

// Projects opens projects for reading; *volume.Store is one.
type Projects interface {
	// Find opens a project, which the service closes. The error has CodeNotFound
	// if it does not exist.
	Find(user dreamcore.UserID, project dreamcore.ProjectID) (*volume.Project, error)
}

// Config configures a Service.
type Config struct {
	Set      *Set
	Model    Model
	Projects Projects
	Global   func() (*os.Root, error) // opens the global volume, where the skills are
	// Meter opens the ledger of one call; optional.
	Meter  func(user, project, job string) gateway.Meter
	Models map[string]string // names of models by alias; Apply replaces them
	// MaxRunning bounds the concurrent calls (64). The same number may wait for up
	// to WaitLimit (5 s).
	MaxRunning int
	WaitLimit  time.Duration
	Logger     *slog.Logger // optional
	// Admit returns why nothing may be made for a user now, or nil; optional. It is
	// called for requests with a user.
	Admit func(user dreamcore.UserID, project dreamcore.ProjectID) error
}

// Service answers prompt endpoints. It is safe for concurrent use and needs no
// Close: a call ends with its context.
type Service struct {
	*Set
	cfg     Config
	log     *slog.Logger
	skills  *skills
	models  atomic.Pointer[map[string]string]
	running *semaphore.Weighted // of MaxRunning
	waiting atomic.Int64        // number of running and waiting calls
}

// New returns a Service.
func New(cfg Config) *Service {
	cfg.MaxRunning = cmp.Or(cfg.MaxRunning, 64)
	cfg.WaitLimit = cmp.Or(cfg.WaitLimit, 5*time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{Set: cfg.Set, cfg: cfg, log: cfg.Logger, running: semaphore.NewWeighted(int64(cfg.MaxRunning))}
	s.skills = &skills{open: cfg.Global, now: time.Now}
	s.Apply(cfg.Models)
	return s
}

// Apply changes the aliases of models for calls that start after it.
func (s *Service) Apply(models map[string]string) { s.models.Store(&models) }

// ModelOf returns the API's name of an endpoint's model.
func (s *Service) ModelOf(e *Endpoint) string { return ModelName(e.Model, *s.models.Load()) }

// ModelName returns the API's name of a model, which may be an alias.
func ModelName(model string, aliases map[string]string) string {
	return cmp.Or(aliases[model], model)
}

// Result is the answer of an endpoint.
type Result struct {
	Status     int
	Body       map[string]any
	RetryAfter time.Duration // with status 429
	Cause      error         // why it is not the model's answer, for the log; may be nil
	Said       string        // the model's text if Cause is about it; not for the log
}

// Answer answers a request. The error has CodeInvalid or CodeTooLarge if a field is
// invalid, CodeNotFound if there is no such endpoint, CodeBusy if too many calls are
// running, or that of Config.Admit; or it is the cause of ctx.
func (s *Service) Answer(ctx context.Context, name string, body []byte, lang dreamcore.Language) (Result, error) {
	e := s.Get(name)
	if e == nil {
		return Result{}, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Not found"}
	}
	r, err := e.read(body)
	if err != nil {
		return Result{}, err
	}
	if s.cfg.Admit != nil && r.user != "" {
		if err := s.cfg.Admit(r.user, r.project); err != nil {
			return Result{}, err
		}
	}
	end, err := s.begin(ctx)
	if err != nil {
		return Result{}, err
	}
	defer end()
	c := &call{service: s, endpoint: e, request: r, view: &view{lang: lang}}
	c.view.skills = c.skills
	c.view.files = func() ([]any, error) { return c.files(ctx) }
	answer, err := c.ask(ctx)
	if err == nil {
		return Result{Status: http.StatusOK, Body: answer}, nil
	}
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	if long := c.tooLong(err); long != nil {
		return Result{}, long
	}
	return c.failed(err)
}

// begin waits for a slot. Prompt calls have their own slots, independent of
// generations.
func (s *Service) begin(ctx context.Context) (end func(), err error) {
	busy := func(cause error) error {
		return &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "Too many prompt requests are running", Hint: "try again in a few seconds", Err: cause}
	}
	leave := func() { s.waiting.Add(-1) }
	if s.waiting.Add(1) > int64(2*s.cfg.MaxRunning) {
		leave()
		return nil, busy(nil)
	}
	limited, cancel := context.WithTimeout(ctx, s.cfg.WaitLimit)
	defer cancel()
	if s.running.Acquire(limited, 1) != nil {
		leave()
		return nil, busy(context.Cause(ctx))
	}
	return func() {
		s.running.Release(1)
		leave()
	}, nil
}

// call is one request that is being answered.
type call struct {
	service  *Service
	endpoint *Endpoint
	request  request
	view     *view
	listed   *[]Skill // nil until first used
	said     string   // the model's text
}

// errAnswer marks an answer of the model that does not match the file.
var errAnswer = errors.New("the answer is not usable")

// ask makes the call and returns the client's answer.
func (c *call) ask(ctx context.Context) (map[string]any, error) {
	e, s := c.endpoint, c.service
	system, err := c.expand(e.system)
	if err != nil {
		return nil, fmt.Errorf("expand the system prompt: %w", err)
	}
	prompt, err := c.expand(e.prompt)
	if err != nil {
		return nil, fmt.Errorf("expand the prompt: %w", err)
	}
	ask := gateway.HostCall{
		Name: e.Name, User: c.account(), Project: string(c.request.project),
		Model: s.ModelOf(e), MaxTokens: e.MaxTokens, System: system, Prompt: prompt,
		TimeLimit: e.Timeout, MaxText: e.Answer.MaxBytes,
	}
	if s.cfg.Meter != nil {
		ask.Meter = s.cfg.Meter(ask.User, ask.Project, "prompt:"+e.Name)
	}
	said, err := s.cfg.Model.Ask(ctx, ask)
	if err != nil {
		return nil, err
	}
	c.said = said.Text
	first := make([]string, 0, len(e.Answer.first))
	for _, t := range e.Answer.first {
		item, err := t.run(c.request.values, c.view)
		if err != nil {
			return nil, fmt.Errorf("expand the first items: %w", err)
		}
		first = append(first, item)
	}
	skill := func(name string) bool { return hasSkill(c.skills(), name) }
	answer, err := e.Answer.read(said.Text, c.request, first, skill)
	if err != nil && said.Stop != "" {
		err = fmt.Errorf("%w (the model stopped with %.40q)", err, said.Stop)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errAnswer, err)
	}
	return answer, nil
}

// tooLong returns the error for a request whose expanded prompt exceeds maxOutput,
// unless the file has a successful answer for a failure. It has CodeTooLarge and
// names the field with the longest value. For any other cause it returns nil. A
// prompt that the model refuses as too long is a failure of the model, for which the
// HTTP contract has the answer of the file.
func (c *call) tooLong(cause error) error {
	if !errors.Is(cause, errExpand) || c.endpoint.failure.status == http.StatusOK || len(c.endpoint.Fields) == 0 {
		return nil
	}
	size := func(f Field) int {
		if f.Name == fieldUser || f.Name == fieldProject {
			return -1
		}
		text, _ := asText(c.request.values[f.Name]) // the values are from JSON
		return len(text)
	}
	longest := slices.MaxFunc(c.endpoint.Fields, func(a, b Field) int { return cmp.Compare(size(a), size(b)) })
	return &dreamcore.Error{
		Code: dreamcore.CodeTooLarge, Message: longest.Name + " is too long: the prompt made from it is longer than the model accepts",
		Hint: "shorten " + longest.Name, Err: cause,
	}
}

// errExpand marks a prompt that is too long.
var errExpand = errors.New("the expanded prompt is too long")

// expand returns the text of a template.
func (c *call) expand(t *template) (string, error) {
	out, err := t.run(c.request.values, c.view)
	if errors.Is(err, errOutput) {
		err = fmt.Errorf("%w: %w", errExpand, err)
	}
	return out, err
}

// account returns the account that is charged.
func (c *call) account() string { return cmp.Or(string(c.request.user), Account) }

// failed returns the answer of the file for a failed call.
func (c *call) failed(cause error) (Result, error) {
	e := c.endpoint
	f, said := e.failure, dreamcore.Failure{Code: dreamcore.FailUnknown}
	if errors.Is(cause, errAnswer) {
		f = e.invalid
	}
	result := Result{Status: f.status, Cause: fmt.Errorf("prompt endpoint %s: %w", e.Name, cause), Said: c.said}
	if host, ok := errors.AsType[*gateway.HostError](cause); ok {
		said.Code = host.Code
		if host.Over != nil {
			said.Code, said.Spent = dreamcore.FailRateLimit, host.Over.After == 0
			if f.status != http.StatusOK && host.Over.After > 0 {
				result.Status, result.RetryAfter = http.StatusTooManyRequests, host.Over.After
			}
		}
	}
	c.view.sentence = func() string { return said.UserMessage(c.view.lang) }
	body, err := f.answer(e.Answer.Key, c.request, c.view)
	if err != nil {
		return Result{}, fmt.Errorf("%w; and the answer for that failed: %w", result.Cause, err)
	}
	result.Body = body
	return result, nil
}

// skills returns the skills, which stay the same during the call.
func (c *call) skills() []Skill {
	if c.listed == nil {
		list, err := c.service.skills.all()
		if err != nil {
			c.service.log.Error("the skills of the global volume cannot be read", "error", err)
		}
		c.listed = &list
	}
	return *c.listed
}

// Bounds of the project files for templates.
const (
	maxProjectBytes = 100_000
	maxProjectFiles = 100
)

// textFiles are the extensions of the files for templates.
var textFiles = []string{".html", ".htm", ".js", ".mjs", ".css", ".json", ".md", ".txt", ".svg", ".glsl", ".vert", ".frag", ".ts", ".xml", ".csv"}

// files returns the text files of the request's project: index.html first, then
// the others by name, up to the bounds.
func (c *call) files(ctx context.Context) ([]any, error) {
	if c.request.user == "" || c.request.project == "" {
		return nil, nil
	}
	p, err := c.service.cfg.Projects.Find(c.request.user, c.request.project)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil, nil // a new project
	}
	if err != nil {
		return nil, err
	}
	defer p.Close()
	var names []string
	for f, err := range p.Files(ctx) {
		if err != nil {
			return nil, err
		}
		if len(f.Path) <= 512 && utf8.ValidString(f.Path) && slices.Contains(textFiles, strings.ToLower(path.Ext(f.Path))) {
			names = append(names, f.Path)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), strings.Compare(a, b))
	})
	return readFiles(p, names[:min(len(names), maxProjectFiles)]), nil
}

func rank(name string) int {
	if name == "index.html" {
		return 0
	}
	return 1 + strings.Count(name, "/")
}

// readFiles reads files up to a total bound; the last one may be truncated. Files
// that have been removed meanwhile, or are not text, are omitted.
func readFiles(p *volume.Project, names []string) []any {
	left, out := maxProjectBytes, []any{}
	for _, name := range names {
		if left -= len(name); left <= 0 {
			break
		}
		f, _, err := p.Open(name)
		if err != nil {
			continue
		}
		content, err := io.ReadAll(io.LimitReader(f, int64(left)+utf8.UTFMax))
		f.Close()
		if err != nil {
			continue
		}
		text, _ := firstBytes(left, string(content))
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			continue
		}
		left -= len(text)
		out = append(out, map[string]any{"path": name, "content": text})
	}
	return out
}
