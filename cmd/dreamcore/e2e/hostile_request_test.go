package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
)

// hostileRequests are the inputs over HTTP: what a front end forwards for users,
// and what any client can send to an open port.
var hostileRequests = []input{
	{"requests: changes of megabytes", func(g *siege, user string) {
		// 20 bodies of 14 MB at once; their text is longer in JSON than on disk.
		body := strings.Repeat(`\u0078`, 14_000_000/6)
		g.atOnce(20, func(int) (int, []byte) {
			return g.apply(user, fresh(), `"files":[{"path":"index.html","content":"`+body+`"}]`)
		})
	}},
	{"requests: changes without a length", func(g *siege, user string) {
		g.atOnce(30, func(int) (int, []byte) {
			head := fmt.Sprintf(`{"user_id":%q,"project_id":%q,"files":[{"path":"index.html","content":"`, user, fresh())
			return g.request(http.MethodPost, "/apply_files", io.MultiReader(strings.NewReader(head), io.LimitReader(aLetter{}, 31<<20), strings.NewReader(`"}]}`)))
		})
	}},
	{"requests: deep bodies", func(g *siege, user string) {
		deep := strings.Repeat("[", 15_000_000)
		g.atOnce(8, func(n int) (int, []byte) {
			switch n % 4 {
			case 0:
				return g.post("/apply_files", deep)
			case 1:
				return g.apply(user, fresh(), `"files":`+deep+strings.Repeat("]", 15_000_000))
			case 2:
				return g.apply(user, fresh(), `"files":[`+strings.Repeat("{},", 5_000_000)+`{}]`)
			}
			return g.post("/generate_game", strings.Repeat(`{"prompt":`, 40_000))
		})
	}},
	{"requests: lists at once", func(g *siege, user string) {
		project := g.longPaths(user)
		g.atOnce(60, func(int) (int, []byte) { return g.get("/list_files", user, project) })
	}},
	{"requests: differences at once", func(g *siege, user string) {
		project := g.longPaths(user)
		g.atOnce(40, func(n int) (int, []byte) {
			if n%2 == 0 {
				return g.apply(user, project, `"action":"git_log","limit":1000000`)
			}
			return g.apply(user, project, `"action":"git_diff","commit":"0000000"`)
		})
		g.inspect("requests: differences at once", user, project)
	}},
	{"requests: restores at once", func(g *siege, user string) {
		project := g.longPaths(user)
		g.atOnce(6, func(int) (int, []byte) {
			g.inspect("requests: restores at once", user, project)
			return http.StatusOK, nil
		})
	}},
	{"requests: games at once", func(g *siege, user string) {
		prompt := strings.Repeat("p", 390_000)
		g.atOnce(200, func(n int) (int, []byte) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(500+20*n)*time.Millisecond)
			defer cancel()
			g.game(ctx, user, fresh(), "# hostile\nsleep 20 # "+prompt)
			return http.StatusOK, nil
		})
	}},
	{"requests: clients that do not read", func(g *siege, user string) {
		project := fresh()
		g.game(context.Background(), user, project, "# hostile\nhead -c 50000000 /dev/zero | tr '\\0' x >index.html")
		begun := time.Now()
		g.connections(100, func(c net.Conn, n int) {
			q := url.Values{"user_id": {user}, "project_id": {project}, "path": {"index.html"}}.Encode()
			path := []string{"/get_file?", "/list_files?"}[n%2] + q
			_, _ = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nX-Modal-Secret: %s\r\n\r\n", path, g.s.secret)
			time.Sleep(time.Until(begun.Add(8 * time.Second)))
		})
	}},
	{"requests: followers of a flood", func(g *siege, user string) {
		g.followers(user, "# flood\necho '<h1>x</h1>' >index.html\nperl -e '$|=1; for(1..600){ print \"{\\\"type\\\":\\\"user\\\",\\\"x\\\":\\\"\",\"x\"x100000,\"\\\"}\\n\" }'; sleep 5")
	}},
	{"requests: headers without an end", func(g *siege, _ string) {
		// 1,000 connections, each with 740 KiB of request headers.
		begun := time.Now()
		g.connections(1000, func(c net.Conn, _ int) {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x.localhost\r\n")
			for range 185 {
				if _, err := io.WriteString(c, "Cookie: "+strings.Repeat("c", 4000)+"\r\n"); err != nil {
					return
				}
			}
			time.Sleep(time.Until(begun.Add(12 * time.Second)))
		})
	}},
	{"requests: one long header", func(g *siege, _ string) {
		begun := time.Now()
		g.connections(1000, func(c net.Conn, _ int) {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x.localhost\r\nCookie: ")
			_, _ = io.Copy(c, io.LimitReader(aLetter{}, 750<<10))
			time.Sleep(time.Until(begun.Add(12 * time.Second)))
		})
	}},
	{"requests: wrong secrets", func(g *siege, user string) {
		g.atOnce(20, func(int) (int, []byte) {
			for range 200 {
				resp, err := g.client.Post(g.s.url+"/generate_game?"+strings.Repeat("q", 5000), "application/json", strings.NewReader(generateBody(user, fresh(), "x")))
				if err == nil {
					_ = resp.Body.Close()
				}
			}
			return http.StatusOK, nil
		})
	}},
	{"requests: paths", func(g *siege, user string) {
		g.atOnce(20, func(int) (int, []byte) {
			for _, path := range []string{strings.Repeat("a/", 10_000), strings.Repeat("../", 5000), strings.Repeat("%00", 3000), "\xff\xfe", strings.Repeat("x", 20_000)} {
				g.get("/get_file", user, project, "path", path)
				g.get("/jobs/"+url.PathEscape(path[:min(len(path), 9000)]), user, project)
			}
			return http.StatusOK, nil
		})
	}},
	{"requests: prompts with long fields", func(g *siege, user string) {
		message := strings.Repeat("戻", 340_000)
		g.atOnce(64, func(n int) (int, []byte) {
			return g.post([]string{"/detect_intent", "/v2_chat_haiku", "/v2_detect_intent"}[n%3], `{"message":"`+message+`"}`)
		})
	}},
	prompts("answer-long"), prompts("answer-deep"), prompts("answer-fences"), prompts("answer-files"),
	prompts("gzip"), prompts("long"), prompts("deep"), prompts("events"), prompts("usage"), prompts("headers"),
}

// prompts calls prompt endpoints whose answers have a shape.
func prompts(shape string) input {
	return input{"prompts: " + shape, func(g *siege, user string) {
		text := "SHAPE-" + shape
		g.atOnce(24, func(n int) (int, []byte) {
			path, body := "/v2_generate_code", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"prompt":%q}`, user, fresh(), text)
			switch n % 4 {
			case 0:
				path, body = "/detect_intent", fmt.Sprintf(`{"message":%q}`, text)
			case 1:
				path, body = "/chat_haiku", fmt.Sprintf(`{"message":%q,"game_spec":"s","conversation_history":[{"role":"user","content":%q}]}`, text, text)
			case 2:
				path, body = "/detect_skills", fmt.Sprintf(`{"message":%q,"dimension":"3d","existing_code":""}`, text)
			}
			if status, answer := g.post(path, body); status == 0 {
				g.t.Logf("prompts: %s: %s: no answer: %s", shape, path, answer)
			}
			return http.StatusOK, nil // an endpoint's answer to a failure may have the status 500
		})
	}}
}

func fresh() string { return uuid.NewString() }

// aLetter is an endless text.
type aLetter struct{}

func (aLetter) Read(p []byte) (int, error) { return copy(p, aMebibyte), nil }

// atOnce sends requests at the same time. Every answer but an internal error is
// acceptable.
func (g *siege) atOnce(count int, send func(n int) (status int, answer []byte)) {
	var all sync.WaitGroup
	for n := range count {
		all.Go(func() {
			if status, answer := send(n); status == http.StatusInternalServerError {
				g.fault("status 500: %.300s", answer)
			}
		})
	}
	all.Wait()
}

// longPaths makes a project whose paths are just below the limit.
func (g *siege) longPaths(user string) (project string) {
	project = fresh()
	for part := range 3 {
		files := make([]string, 680)
		for i := range files {
			dir := strings.Repeat(strings.Repeat("d", 250)+"/", 15)
			files[i] = fmt.Sprintf(`{"path":"%s%d/%s%d","content":"x"}`, dir, part, strings.Repeat("n", 200), i)
		}
		status, answer := g.apply(user, project, `"files":[`+strings.Join(files, ",")+`]`)
		if status != http.StatusOK || !strings.Contains(string(answer), `"type":"done"`) {
			g.t.Logf("make long paths: %d %.300s", status, answer)
		}
	}
	return project
}

// connections opens connections and does something with each.
func (g *siege) connections(count int, do func(c net.Conn, n int)) {
	u, _ := url.Parse(g.s.url)
	var all sync.WaitGroup
	for n := range count {
		all.Go(func() {
			c, err := net.DialTimeout("tcp", u.Host, 10*time.Second)
			if err != nil {
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			do(c, n)
		})
	}
	all.Wait()
}

// followers makes a game whose events many clients follow, half of them without
// reading.
func (g *siege) followers(user, script string) {
	req, _ := http.NewRequest(http.MethodPost, g.s.url+"/generate_game", strings.NewReader(generateBody(user, fresh(), script)))
	req.Header.Set("X-Modal-Secret", g.s.secret)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		g.fault("a flood: %v", err)
		return
	}
	defer resp.Body.Close()
	id := resp.Header.Get("X-Job-Id")
	begun := time.Now()
	g.connections(60, func(c net.Conn, n int) {
		_, _ = fmt.Fprintf(c, "GET /jobs/%s/events HTTP/1.1\r\nHost: x\r\nX-Modal-Secret: %s\r\n\r\n", id, g.s.secret)
		if n%2 == 0 {
			_, _ = io.Copy(io.Discard, c)
		}
		time.Sleep(time.Until(begun.Add(15 * time.Second)))
	})
	_, _ = io.Copy(io.Discard, resp.Body)
}
