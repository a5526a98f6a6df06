package upstream

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/model/upstream/upstreamtest"
)

// parrot is a model that echoes its request, in both kinds of answers.
type parrot struct{ says string }

func (p *parrot) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if strings.Contains(string(body), `"stream":true`) || strings.Contains(r.URL.Path, "tream") {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = fmt.Fprintf(w, "event: ping\ndata: {\"type\":\"ping\",\"x\":%q}\n\n", p.says)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, `{"type":"message","x":%q}`, p.says)
}

func TestSuccessfulAnswerContainsNoCredential(t *testing.T) {
	p := &parrot{says: "nothing"}
	v := upstreamtest.NewVertex(t, "p", "us-east5", p)
	vertex := newRig(t, secrets{"sa": {"JSON": v.ServiceAccount}}, vertexEntry(v))
	if s := vertex.send(call(testBody)); s.StatusCode != 200 || !strings.Contains(s.body, "nothing") {
		t.Fatalf("%v", s)
	}
	b := upstreamtest.NewBedrock(t, "us-east-1", testKeys, p)
	for name, tc := range map[string]struct {
		*rig
		secret string
	}{
		"token of Vertex":    {vertex, vertex.members[0].tokens.current},
		"secret of Bedrock":  {newRig(t, awsSecrets, bedrockEntry(b)), testKeys.Secret},
		"session of Bedrock": {newRig(t, awsSecrets, bedrockEntry(b)), testKeys.Session},
	} {
		p.says = "<" + tc.secret + ">"
		for _, body := range []string{testBody, strings.Replace(testBody, "true", "false", 1)} {
			s := tc.send(call(body))
			if s.err != nil || s.StatusCode != 200 || strings.Contains(s.body, tc.secret) || !strings.Contains(s.body, "<"+strings.Repeat("*", len(tc.secret))+">") {
				t.Errorf("%s: %v", name, s)
			}
		}
	}
}
