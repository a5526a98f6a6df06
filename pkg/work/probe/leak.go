package probe

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// lookAround prints everything that a program in a sandbox can read: its own
// environment, that of other processes, memory maps, mounts, files except programs,
// and the answers of the model gateway to arbitrary requests.
const lookAround = `env; set
for p in /proc/[0-9]* /proc/self; do for f in environ cmdline maps mountinfo status cgroup; do cat $p/$f; done; ls -l $p/fd $p/cwd $p/root; cat $p/root/etc/shadow $p/root/root/.*; done
cat /proc/mounts /proc/net/unix /proc/version /proc/cmdline /etc/shadow /proc/kcore
find / -xdev \( -path /proc -o -path /sys -o -path /usr \) -prune -o -type f -size -300k -readable -exec cat {} +
find /data /home /tmp /run /global /dev/shm /.dreamcore -type f -size -300k -exec cat {} +
s=$ANTHROPIC_UNIX_SOCKET
for u in / /v1/messages /v1/models /debug/vars /metrics; do curl -sS -i -m 3 --unix-socket "$s" -H "x-api-key: $ANTHROPIC_API_KEY" "http://x$u"; done
true`

// searched counts texts in the data that is written to it.
type searched struct {
	needles map[string][][]byte // by name, in several forms
	counts  map[string]int
	total   int64
	longest int
	tail    []byte // the end of the data, which may be the beginning of a text
}

func newSearch(texts map[string]string) *searched {
	s := &searched{needles: map[string][][]byte{}, counts: map[string]int{}}
	for name, text := range texts {
		if text == "" {
			continue
		}
		plain := []byte(text)
		reversed := slices.Clone(plain)
		slices.Reverse(reversed)
		forms := [][]byte{plain, reversed, []byte(hex.EncodeToString(plain))}
		for shift := range 3 { // the text before it shifts base64
			enc := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), plain...))
			forms = append(forms, []byte(enc[(shift*8+5)/6:(shift+len(plain))*8/6]))
		}
		s.needles[name], s.counts[name] = forms, 0
		for _, f := range forms {
			s.longest = max(s.longest, len(f))
		}
	}
	return s
}

// Write counts the texts that end in b.
func (s *searched) Write(b []byte) (int, error) {
	s.total += int64(len(b))
	old := len(s.tail)
	s.tail = append(s.tail, b...)
	for name, forms := range s.needles {
		for _, f := range forms {
			from := max(0, old-len(f)+1) // texts that end in the tail are counted already
			for i := bytes.Index(s.tail[from:], f); i >= 0; i = bytes.Index(s.tail[from:], f) {
				s.counts[name]++
				from += i + len(f)
			}
		}
	}
	if keep := max(s.longest-1, 0); len(s.tail) > keep {
		s.tail = append(s.tail[:0], s.tail[len(s.tail)-keep:]...)
	}
	return len(b), nil
}

// keyLeak searches everything that a sandbox with a valid token can read for the
// secrets of the machine, and for a text that it must find.
func keyLeak(ctx context.Context, n *notes, guests []*guest) error {
	reader := guests[0]
	texts := reader.p.cfg.Deep.Secrets()
	texts["the token of another job"] = guests[1].grant.Token()
	texts["planted text"] = n.nonce
	if err := reader.plant("planted.txt", n.nonce); err != nil {
		return err
	}
	began := time.Now()
	s := newSearch(texts)
	if _, err := finish(ctx, reader, reader.command(s, "/bin/sh", "-c", lookAround)); err != nil {
		return err
	}
	n.see(began, "bytes searched", strconv.FormatInt(s.total, 10))
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		seen := "not set"
		if texts[name] != "" {
			seen = strconv.Itoa(s.counts[name])
		}
		n.see(began, name, seen)
	}
	return nil
}

// plant writes a file into the guest's project, from the host.
func (g *guest) plant(name, text string) error {
	return g.project.Root().WriteFile(name, []byte(text+"\n"), 0o644)
}

// otherUser lets one user search for a file of another user.
func otherUser(ctx context.Context, n *notes, guests []*guest) error {
	owner, other := guests[0], guests[1]
	if err := owner.plant("secret.txt", n.nonce); err != nil {
		return err
	}
	inside, outside := owner.inside+"/secret.txt", owner.project.Path()+"/secret.txt"
	for _, try := range []struct {
		tried  string
		by     *guest
		script string
	}{
		{"the owner reads it", owner, `cat "$1"`},
		{"by path", other, `cat "$1"`},
		{"by the path on the host", other, `cat "$2"`},
		{"by climbing", other, `cat "../../../..$1" "../../../../../../../..$2"`},
		{"by a symbolic link", other, `ln -s "$1" link1; ln -s "$2" link2; cat link1 link2`},
		{"by a hard link", other, `ln "$1" hard1; ln "$2" hard2; cat hard1 hard2`},
		{"through processes", other, `for p in /proc/[0-9]*; do cat "$p/root$1" "$p/root$2" "$p/cwd/../../../../..$1"; done 2>&1 | sort | uniq -c | sort -rn | head -3`},
		{"by searching", other, `grep -rl "$3" /data /home /tmp /run /dev/shm /global 2>/dev/null; echo "$(find /data -type f | wc -l) files of its own seen"`},
		{"users that are seen", other, `ls /data/users | grep -v -x "$4" || echo "none but itself"`},
	} {
		if err := n.try(ctx, try.by, try.tried, try.script, inside, outside, n.nonce, string(other.id)); err != nil {
			return err
		}
	}
	return nil
}

// symlink lets a sandbox create links in its project, which the service then opens
// as it opens the files of a game.
func symlink(ctx context.Context, n *notes, guests []*guest) error {
	owner, other := guests[0], guests[1]
	if err := owner.plant("secret.txt", n.nonce); err != nil {
		return err
	}
	// A file of the host that the service can read and a sandbox cannot.
	host := n.dir + "/" + uuid.NewString()
	if err := os.WriteFile(host, []byte(n.nonce), 0o600); err != nil {
		return err
	}
	began := time.Now()
	if _, err := other.shell(ctx, `echo "$3" >plain.txt; ln -s "$1" other.txt; ln -s "$2" host.txt; ln -s / root; ln -s plain.txt near.txt; ln -s /proc/self/environ environ.txt; ln -s .. up; ln -s other.txt chain.txt`,
		owner.project.Path()+"/secret.txt", host, n.nonce); err != nil {
		return err
	}
	for _, name := range []string{"plain.txt", "other.txt", "host.txt", "root" + host, "near.txt", "environ.txt", "up/secret.txt", "chain.txt", "../" + host} {
		tried := name
		switch name { // their full paths differ every time
		case "root" + host:
			tried = "root/… (a directory)"
		case "../" + host:
			tried = "../… (a path)"
		}
		n.see(began, tried, opened(other, name))
		began = time.Now()
	}
	return nil
}

// opened returns what the service reads from a file in a guest's project.
func opened(g *guest, name string) string {
	f, _, err := g.project.Open(name)
	if err != nil {
		return "refused: " + string(dreamcore.CodeOf(err))
	}
	defer f.Close()
	out := &output{limit: maxSeen, cut: true}
	if _, err := f.WriteTo(out); err != nil {
		return "refused: it cannot be read"
	}
	return out.text()
}
