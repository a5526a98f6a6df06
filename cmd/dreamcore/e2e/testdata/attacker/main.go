// Command attacker replaces the agent: it runs its prompt as a shell script and
// reports the output. It is also a tool of the scripts for what a shell cannot do:
// raw bytes to the model gateway's socket, and system calls.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	firstLine    = "The user's request:\n\n" // what stands before a prompt
	scriptLimit  = 25 * time.Second
	targetLimit  = 30 * time.Minute // of a script that begins with victim
	victim       = "# victim\n"
	hostileLimit = 100 * time.Second // of a script that begins with one of these
	hostile      = "# hostile\n"
	flood        = "# flood\n" // its output goes to the agent's own output as it is
	maxOutput    = 1 << 20
	success      = `{"type":"result","subtype":"success","is_error":false,"result":"ok","num_turns":1}`
)

// prelude has functions for every script. breach PATTERN WHAT copies its input and
// reports a breach if a line matches.
const prelude = `PROBE=` + "/.dreamcore/bin/claude" + ` TOKEN=$ANTHROPIC_API_KEY
gw() { "$PROBE" gw "$@"; }
post() { "$PROBE" post "$@"; }
sys() { "$PROBE" sys "$@"; }
many() { "$PROBE" many "$@"; }
H=$'Host: x\nX-Api-Key: %TOKEN%\nAnthropic-Version: 2023-06-01\nContent-Type: application/json'
B='{"model":"m","max_tokens":16,"messages":[{"role":"user","content":"hello"}]}' N=${#B}
breach() { local all; all=$(cat | tr -d '\0'); printf '%s\n' "$all"; ! grep -aqE -- "$1" <<<"$all" || printf '\nBREACH %s\n' "$2"; }
`

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "gw":
			raw, _ := io.ReadAll(os.Stdin)
			talk(lines(raw), os.Args[2:])
			return
		case "post":
			post(os.Args[2], os.Args[3:])
			return
		case "sys":
			for _, name := range os.Args[2:] {
				call(name)
			}
			return
		case "many":
			many(os.Args[2:])
			return
		}
	}
	_, script, _ := strings.Cut(prompt(), firstLine)
	if strings.TrimSpace(script) == "" { // a check of the program
		fmt.Println(success)
		return
	}
	run(script)
	fmt.Println(success)
}

// prompt returns what the agent is asked: the content of the message on standard input,
// before which there may be requests to the agent itself.
func prompt() string {
	var line struct{ Message struct{ Content string } }
	for lines := json.NewDecoder(os.Stdin); line.Message.Content == ""; {
		if err := lines.Decode(&line); err != nil {
			return ""
		}
	}
	return line.Message.Content
}

// run runs a script and writes its output as one event, plain and, since it
// need not be text, in base64.
func run(script string) {
	limit := scriptLimit
	switch {
	case strings.HasPrefix(script, victim):
		limit = targetLimit
	case strings.HasPrefix(script, hostile), strings.HasPrefix(script, flood):
		limit = hostileLimit
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/bin/bash", "-c", prelude+script)
	out := &bounded{}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, out, time.Second
	if strings.HasPrefix(script, flood) {
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	}
	err := cmd.Run()
	event, _ := json.Marshal(map[string]string{
		"type": "user", "output": out.String(), "raw": base64.StdEncoding.EncodeToString(out.Bytes()), "ended": fmt.Sprint(err),
	})
	fmt.Printf("%s\n", event)
}

type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if free := maxOutput - b.Len(); len(p) > free {
		b.Buffer.Write(p[:free])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}

// lines converts line ends to those of HTTP; \b at the end of a line prevents it.
func lines(raw []byte) []byte {
	raw = bytes.ReplaceAll(raw, []byte("\r\n"), []byte("\n"))
	raw = bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n"))
	raw = bytes.ReplaceAll(raw, []byte("\b\r\n"), []byte("\n"))
	return bytes.ReplaceAll(raw, []byte("%TOKEN%"), []byte(os.Getenv("ANTHROPIC_API_KEY")))
}

// talk writes bytes to the gateway and prints its answer until it is silent. With
// "slow" it writes one byte at a time.
func talk(raw []byte, how []string) {
	conn, err := net.Dial("unix", os.Getenv("ANTHROPIC_UNIX_SOCKET"))
	if err != nil {
		fmt.Println("dial:", err)
		return
	}
	defer conn.Close()
	go func() {
		step := len(raw)
		if len(how) > 0 && how[0] == "slow" {
			step = 1
		}
		for i := 0; i < len(raw); i += max(step, 1) {
			if _, err := conn.Write(raw[i:min(i+step, len(raw))]); err != nil {
				return
			}
			if step == 1 {
				time.Sleep(5 * time.Millisecond)
			}
		}
	}()
	answer(conn, 1500*time.Millisecond)
}

func answer(conn net.Conn, silence time.Duration) {
	buf := make([]byte, 64<<10)
	total := 0
	for total < maxOutput {
		_ = conn.SetReadDeadline(time.Now().Add(silence))
		n, err := conn.Read(buf)
		_, _ = os.Stdout.Write(buf[:n])
		if total += n; err != nil {
			return
		}
	}
}

// post sends a valid request with additional headers. A header without a value
// ("X-Api-Key:") removes that header.
func post(body string, more []string) {
	head := []string{"Host: x", "X-Api-Key: " + os.Getenv("ANTHROPIC_API_KEY"), "Anthropic-Version: 2023-06-01", "Content-Type: application/json", "Connection: close"}
	for _, h := range more {
		if name, value, _ := strings.Cut(h, ":"); value == "" {
			var kept []string
			for _, k := range head {
				if !strings.HasPrefix(strings.ToLower(k), strings.ToLower(name)+":") {
					kept = append(kept, k)
				}
			}
			head = kept
			continue
		}
		head = append(head, h)
	}
	if body == "" {
		body = `{"model":"m","max_tokens":16,"messages":[{"role":"user","content":"hello"}]}`
	}
	if body == "-" {
		raw, _ := io.ReadAll(os.Stdin)
		body = string(raw)
	}
	head = append(head, fmt.Sprintf("Content-Length: %d", len(body)))
	talk([]byte("POST /v1/messages HTTP/1.1\r\n"+strings.Join(head, "\r\n")+"\r\n\r\n"+body), nil)
}
