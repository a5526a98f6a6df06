package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream/upstreamtest"
)

// configure writes the configuration of the installation.
func (h *host) configure(text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.state, "config.yaml"), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// seal creates a secret from stdin.
func (h *host) seal(stdin string, args ...string) {
	h.t.Helper()
	if r := h.runIn(stdin, append([]string{"secret", "create"}, args...)...); r.code != 0 {
		h.t.Fatalf("secret create %v: %s", args, r.stderr)
	}
}

// makesAGame makes a game and edits it.
func (h *host) makesAGame() {
	h.t.Helper()
	out := filepath.Join(h.t.TempDir(), "game")
	first := h.must("generate", "a snake game", "--project", project, "-o", out)
	if files := readGame(h.t, out); len(files) != 3 || strings.Contains(first, "This is a demo") {
		h.t.Errorf("the game has %d files\n%s", len(files), first)
	}
	events := h.must("generate", "make it faster", "--project", project, "--json")
	if !strings.Contains(events, `{"type":"done","exit_code":0}`) {
		h.t.Errorf("the second prompt:\n%s", events)
	}
}

// holds reports whether text occurs in the files of sandboxes and in logs.
func (h *host) holds(text string) (found []string) {
	for _, dir := range []string{"jobs", "homes", "history", "volumes", "run"} {
		_ = filepath.WalkDir(filepath.Join(h.state, dir), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				if raw, err := os.ReadFile(path); err == nil && strings.Contains(string(raw), text) {
					found = append(found, path)
				}
			}
			return nil
		})
	}
	return found
}

func TestAGameIsMadeThroughVertex(t *testing.T) {
	h := newHost(t).unbounded()
	cloud := upstreamtest.NewVertex(t, "games", "us-east5", replay.New(replay.Demo()))
	config := fmt.Sprintf(`
upstreams:
  - name: vertex
    kind: vertex
    base_url: %s
    ca_file: %s
    project: games
    region: us-east5
    service_account: vertex
    models: {"*": claude-game@20260101}
`, cloud.URL, cloud.CAFile)
	h.configure(config)
	// A real model is configured: without the credential there is no game.
	if r := h.run("generate", "a snake game"); r.code == 0 || !strings.Contains(r.stderr, "dreamcore secret") {
		t.Errorf("without the service account: %d %s", r.code, r.stderr)
	}
	h.seal(cloud.ServiceAccount, "vertex", "JSON=-")
	h.makesAGame()
	if r := h.run("doctor"); !strings.Contains(r.stdout+r.stderr, "vertex ("+cloud.URL+")") {
		t.Errorf("doctor does not tell of the upstream:\n%s%s", r.stdout, r.stderr)
	}
	if len(cloud.Seen().Refused) != 0 || cloud.Seen().Answered < 4 || cloud.Tokens() < 1 {
		t.Errorf("%d answers, %d tokens, refused: %v", cloud.Seen().Answered, cloud.Tokens(), cloud.Seen().Refused)
	}
	if found := append(h.holds("ya29."), h.holds("PRIVATE KEY")...); len(found) > 0 {
		t.Errorf("credentials are in %v", found)
	}
}

// The first upstream of the list is down; the second one is behind the operator's
// proxy and has a certificate of the operator's own authority.
func TestAGameIsMadeThroughBedrock(t *testing.T) {
	h := newHost(t).unbounded()
	keys := upstreamtest.Keys{ID: "AKIDGAMES", Secret: "bedrock-secret-0123456789abcdef", Session: "bedrock-session-0123456789abcdef"}
	cloud := upstreamtest.NewBedrock(t, "us-east-1", keys, replay.New(replay.Demo()))
	proxy := upstreamtest.NewProxy(t, cloud.URL)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	h.configure(fmt.Sprintf(`
upstreams:
  - {name: down, kind: anthropic, base_url: "http://%s", api_key: none}
  - name: bedrock
    kind: bedrock
    base_url: https://example.com
    ca_file: %s
    region: us-east-1
    aws_credentials: aws
    models: {"*": "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-game-v1:0"}
`, nobody, cloud.CAFile))
	h.env = append(h.env, "HTTPS_PROXY="+proxy.URL)
	h.seal(keys.Secret, "aws", "AWS_ACCESS_KEY_ID="+keys.ID, "AWS_SECRET_ACCESS_KEY=-", "AWS_SESSION_TOKEN="+keys.Session)
	h.makesAGame()
	if len(cloud.Seen().Refused) != 0 || cloud.Seen().Answered < 4 || len(proxy.Asked()) == 0 {
		t.Errorf("%d answers, refused: %v, proxy: %v", cloud.Seen().Answered, cloud.Seen().Refused, proxy.Asked())
	}
	if found := append(h.holds(keys.Secret), h.holds(keys.Session)...); len(found) > 0 {
		t.Errorf("credentials are in %v", found)
	}
}
