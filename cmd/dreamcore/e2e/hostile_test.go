package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// hostileEnv selects the hostile inputs: "all", or a regular expression for their
// names. Unset, the most expensive short ones are played.
const hostileEnv = "DREAMCORE_TEST_HOSTILE"

// worst are the inputs that are always played: the most expensive ones that do not
// take long.
var worst = []string{
	"requests: lists at once", "requests: headers without an end", "requests: one long header",
	"requests: deep bodies", "model: large requests at once",
	"histories: names of megabytes", "histories: a deep bomb of trees", "histories: many references",
	"events: deep JSON", "prompts: answer-fences", "trees: paths just within the limits",
}

// Hostile users cannot take the memory of the service, nor a job or a request of
// other users. The whole collection takes about eight minutes.
func TestHostileUsersCannotExhaustTheService(t *testing.T) {
	g := newSiege(t)
	inputs := append(g.scripts(strings.NewReplacer()), hostileRequests...)
	if len(inputs) < 60 {
		t.Errorf("only %d inputs", len(inputs))
	}
	chosen, users := g.choose(inputs)
	other, third := otherProject, "123e4567-e89b-42d3-a456-426614174999"
	if last := g.game(t.Context(), bob, other, smallGame); !strings.Contains(last, `"type":"done"`) {
		t.Fatal(last)
	}
	var o honest
	usual, games := g.usual(&o, other, 1)
	busy, gamesBusy := g.usual(&o, other, users)
	t.Logf("while %d users make games: requests %s; games %s", users, spread(busy), spread(gamesBusy))

	ended := make(chan string, 1)
	const carol = "ca401000-0000-4000-8000-000000000004"
	go func() {
		ended <- g.game(context.Background(), carol, third, "# victim\necho '<h1>x</h1>' >index.html; while [ ! -e end.txt ]; do sleep 0.2; done")
	}()
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { g.browse(ctx, &o, bob, other) })
	all.Go(func() { g.work(ctx, &o, alice, project) })
	begun := time.Now()
	g.attack(chosen, users)
	took := time.Since(begun)
	cancel()
	all.Wait()
	select {
	case last := <-ended:
		t.Errorf("a job that was to last has ended: %.300s", last)
	default:
		g.h.must("sandbox", "exec", "user-"+carol, "--", "touch", third+"/end.txt")
		if last := <-ended; !strings.Contains(last, `"type":"done"`) {
			t.Errorf("the job that lasted as long as the attack: %.300s", last)
		}
	}
	under, gamesUnder := o.take()
	g.report(chosen, took)
	g.compare("requests", usual, under, 3)
	g.compare("games", games, gamesUnder, 10)
}

// choose returns the inputs to play and the number of concurrent users.
func (g *siege) choose(inputs []input) (chosen []input, users int) {
	want := os.Getenv(hostileEnv)
	switch want {
	case "all":
		return inputs, 10
	case "":
		for _, name := range worst {
			i := slices.IndexFunc(inputs, func(in input) bool { return in.name == name })
			if i < 0 {
				g.t.Fatalf("there is no input %q", name)
			}
			chosen = append(chosen, inputs[i])
		}
		return chosen, 6
	}
	names, err := regexp.Compile(want)
	if err != nil {
		g.t.Fatalf("%s: %v", hostileEnv, err)
	}
	for _, in := range inputs {
		if names.MatchString(in.name) {
			chosen = append(chosen, in)
		}
	}
	return chosen, min(10, max(1, len(chosen)))
}

// usual measures requests and games without an attack, while users make games.
func (g *siege) usual(o *honest, project string, users int) (requests, games []time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var all sync.WaitGroup
	all.Go(func() { g.browse(ctx, o, bob, project) })
	for n := range users {
		all.Go(func() { g.work(ctx, o, themeUser(100+n), fresh()) })
	}
	all.Wait()
	return o.take()
}

// report checks the service after an attack.
func (g *siege) report(played []input, took time.Duration) {
	t := g.t
	t.Helper()
	peak := processMemory(g.pid, "VmHWM") >> 20
	g.mu.Lock()
	defer g.mu.Unlock()
	t.Logf("%d inputs in %s: the service took at most %d MiB of %d MiB, during %s", len(played), took.Round(time.Second), peak, siegeMemory>>20, g.during)
	if peak == 0 || peak >= siegePeak {
		t.Errorf("the service took %d MiB, more than %d, during %s", peak, siegePeak, g.during)
	}
	select {
	case <-g.s.done:
		t.Errorf("the service has ended: %v\n%s", g.s.err, g.s.log)
	default:
	}
	resp, err := http.Get(g.s.url + "/health")
	if err != nil {
		t.Fatalf("the service does not answer: %v", err)
	}
	_ = resp.Body.Close()
	if text := g.s.log.String(); strings.Contains(text, "panic") {
		t.Errorf("a panic:\n%.3000s", text[strings.Index(text, "panic"):])
	}
	for _, f := range g.faults {
		t.Error(f)
	}
}

// compare reports durations before and during the attack. If hostileEnv is set, the
// median may be times as long at most.
func (g *siege) compare(what string, before, under []time.Duration, times int) {
	t := g.t
	t.Helper()
	if len(before) == 0 || len(under) == 0 {
		t.Errorf("no %s of other users: %d before, %d under attack", what, len(before), len(under))
		return
	}
	t.Logf("%s of other users: usually %s; under attack %s", what, spread(before), spread(under))
	if os.Getenv(hostileEnv) == "" {
		return // a machine of CI may do other work meanwhile
	}
	if got, most := percentile(under, 50), time.Duration(times)*percentile(before, 50); got > most {
		t.Errorf("%s of other users take %s, more than %s", what, got, most)
	}
}

// spread describes sorted times.
func spread(all []time.Duration) string {
	if len(all) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d, median %s, 95%% %s, longest %s", len(all), percentile(all, 50), percentile(all, 95), percentile(all, 100))
}

func percentile(sorted []time.Duration, percent int) time.Duration {
	return sorted[(len(sorted)-1)*percent/100].Round(10 * time.Microsecond)
}
