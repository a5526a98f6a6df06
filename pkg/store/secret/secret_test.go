package secret

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"filippo.io/age"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

func newStore(t testing.TB) (*Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "secrets")
	created, err := Init(dir, "")
	if err != nil || !created {
		t.Fatalf("init: %v, %v", created, err)
	}
	s, err := Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

// wantError checks the code, the message and the hint of err.
func wantError(t *testing.T, err error, code dreamcore.Code, message, hint string) {
	t.Helper()
	if err == nil || dreamcore.CodeOf(err) != code || !strings.Contains(err.Error(), message) || !strings.Contains(dreamcore.HintOf(err), hint) {
		t.Fatalf("got %v (%s; hint %q), want %s %q, hint with %q", err, dreamcore.CodeOf(err), dreamcore.HintOf(err), code, message, hint)
	}
}

func mustCreate(t testing.TB, s *Store, name string, values map[string]string) {
	t.Helper()
	if err := s.Create(name, values, false); err != nil {
		t.Fatal(err)
	}
}

func TestASecretIsReadBackAndStoredOnlySealed(t *testing.T) {
	s, dir := newStore(t)
	want := map[string]string{"PASSWORD": "needle-in-the-clear", "_b2": "a=b\n\"日本\"", "C": strings.Repeat("x", MaxValueBytes)}
	mustCreate(t, s, "my-secret", want)
	again, err := Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Get("my-secret"); err != nil || !maps.Equal(got, want) {
		t.Fatalf("got %v, %v", got, err)
	}
	if v, err := again.Value("my-secret", "PASSWORD"); err != nil || v != want["PASSWORD"] {
		t.Fatalf("value %q, %v", v, err)
	}
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		info, _ := d.Info()
		if err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v, %v", path, info.Mode(), err)
		}
		if data, _ := os.ReadFile(path); strings.Contains(string(data), "needle") || strings.Contains(string(data), "PASSWORD") {
			t.Errorf("%s has the secret in the clear", path)
		}
		if strings.HasPrefix(d.Name(), statefile.TempPrefix) {
			t.Errorf("%s was not removed", path)
		}
		return nil
	})
}

func TestListShowsNamesKeysAndDamage(t *testing.T) {
	s, dir := newStore(t)
	if infos, err := s.List(); err != nil || len(infos) != 0 {
		t.Fatalf("empty store: %v, %v", infos, err)
	}
	mustCreate(t, s, "b", map[string]string{"Z": "1", "A": "2"})
	mustCreate(t, s, "a", map[string]string{"K": "v"})
	os.WriteFile(filepath.Join(dir, "broken.age"), []byte("junk"), fileMode)
	os.WriteFile(filepath.Join(dir, "NOT OURS.age"), nil, fileMode)
	infos, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range infos {
		got = append(got, fmt.Sprintf("%s%v %v %v", i.Name, i.Keys, i.Err != nil, i.Created.IsZero()))
	}
	if want := "a[K] false false b[A Z] false false broken[] true false"; strings.Join(got, " ") != want {
		t.Fatalf("got %s", got)
	}
}

func TestCreateReplacesOnlyWithOverwrite(t *testing.T) {
	s, _ := newStore(t)
	mustCreate(t, s, "x", map[string]string{"K": "old"})
	wantError(t, s.Create("x", map[string]string{"K": "new"}, false), dreamcore.CodeConflict, "already exists", "dreamcore secret delete x")
	if v, _ := s.Value("x", "K"); v != "old" {
		t.Fatalf("the refused create wrote %q", v)
	}
	if err := s.Create("x", map[string]string{"K2": "new"}, true); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.Get("x"); !maps.Equal(got, map[string]string{"K2": "new"}) {
		t.Fatalf("got %v", got)
	}
}

func TestDeleteRemovesASecret(t *testing.T) {
	s, _ := newStore(t)
	mustCreate(t, s, "x", map[string]string{"K": "v"})
	if err := s.Delete("x"); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get("x")
	wantError(t, err, dreamcore.CodeNotFound, "no secret x", "dreamcore secret create x")
	wantError(t, s.Delete("x"), dreamcore.CodeNotFound, "no secret x", "dreamcore secret create x")
	_, err = s.Get(AnthropicSecret)
	wantError(t, err, dreamcore.CodeNotFound, AnthropicSecret, "dreamcore setup")
}

func TestNamesKeysAndValuesAreChecked(t *testing.T) {
	s, _ := newStore(t)
	good := map[string]string{"K": "v"}
	for _, name := range []string{"", "-a", "A", "a.b", "../a", "a/b", "a\x00", "a\n", strings.Repeat("a", 64), "é"} {
		wantError(t, s.Create(name, good, false), dreamcore.CodeInvalid, "name", "letters")
		_, err := s.Get(name)
		wantError(t, err, dreamcore.CodeInvalid, "name", "letters")
		wantError(t, s.Delete(name), dreamcore.CodeInvalid, "name", "letters")
	}
	many := map[string]string{}
	for i := range MaxKeys + 1 {
		many[fmt.Sprintf("K%d", i)] = "v"
	}
	heavy := map[string]string{}
	for i := range 17 {
		heavy[fmt.Sprintf("K%d", i)] = strings.Repeat("x", MaxValueBytes)
	}
	for name, values := range map[string]map[string]string{
		"none": nil, "many": many, "heavy": heavy,
		"empty key": {"": "v"}, "digit": {"1K": "v"}, "dash": {"A-B": "v"}, "newline": {"K\n": "v"}, "long key": {strings.Repeat("K", 257): "v"},
		"empty": {"K": ""}, "long": {"K": strings.Repeat("x", MaxValueBytes+1)}, "NUL": {"K": "a\x00b"}, "not UTF-8": {"K": "\xff"},
	} {
		if err := s.Create("x", values, false); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := s.Create(strings.Repeat("a", 63), good, false); err != nil {
		t.Error(err)
	}
}

func TestInitIsIdempotent(t *testing.T) {
	s, dir := newStore(t)
	mustCreate(t, s, "x", map[string]string{"K": "v"})
	os.WriteFile(filepath.Join(dir, statefile.TempPrefix+"123"), []byte("half"), fileMode)
	if created, err := Init(dir, ""); err != nil || created {
		t.Fatalf("second init: %v, %v", created, err)
	}
	if v, err := s.Value("x", "K"); err != nil || v != "v" {
		t.Fatalf("%q, %v", v, err)
	}
	if _, err := os.Stat(filepath.Join(dir, statefile.TempPrefix+"123")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("the residue of a crash was not removed: %v", err)
	}
}

func TestOpenDistinguishesFaults(t *testing.T) {
	newID := func(path string) {
		id, _ := age.GenerateX25519Identity()
		os.WriteFile(path, []byte(id.String()+"\n"), fileMode)
	}
	for name, c := range map[string]struct {
		harm          func(dir, identity string)
		message, hint string
	}{
		"no directory":           {func(dir, _ string) { os.RemoveAll(dir) }, "no secrets yet", "dreamcore setup"},
		"nothing set up":         {func(dir, id string) { os.Remove(id); os.Remove(filepath.Join(dir, "x.age")) }, "no identity yet", "dreamcore setup"},
		"identity lost":          {func(_, id string) { os.Remove(id) }, "is lost: 1 sealed", "from a backup"},
		"identity empty":         {func(_, id string) { os.Truncate(id, 0) }, "is damaged", "from a backup"},
		"identity garbled":       {func(_, id string) { os.WriteFile(id, []byte("AGE-SECRET-KEY-1XYZ"), fileMode) }, "is damaged", "from a backup"},
		"identity huge":          {func(_, id string) { os.Truncate(id, 1<<30) }, "is damaged", "from a backup"},
		"identity for the group": {func(_, id string) { os.Chmod(id, 0o640) }, "mode 0640", "chmod 600 "},
		"identity for all":       {func(_, id string) { os.Chmod(id, 0o604) }, "mode 0604", "chmod 600 "},
		"identity a directory":   {func(_, id string) { os.Remove(id); os.Mkdir(id, dirMode) }, "not a regular file", "age key"},
		"identity a FIFO":        {func(_, id string) { os.Remove(id); syscall.Mkfifo(id, fileMode) }, "not a regular file", "age key"},
		"directory for all":      {func(dir, _ string) { os.Chmod(dir, 0o755) }, "mode 0755", "chmod 700 "},
		"directory a file":       {func(dir, _ string) { os.RemoveAll(dir); os.WriteFile(dir, nil, fileMode) }, "not a directory", "dreamcore setup"},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := newStore(t)
			mustCreate(t, s, "x", map[string]string{"K": "v"})
			c.harm(dir, filepath.Join(dir, identityName))
			_, err := Open(dir, "")
			wantError(t, err, dreamcore.CodeSetup, c.message, c.hint)
		})
	}
	t.Run("identity of another user", func(t *testing.T) {
		_, dir := newStore(t)
		if err := os.Chown(filepath.Join(dir, identityName), 12345, 0); err != nil {
			t.Skipf("cannot change the owner of a file here: %v", err)
		}
		_, err := Open(dir, "")
		wantError(t, err, dreamcore.CodeSetup, "another user", "chown")
	})
	t.Run("wrong identity", func(t *testing.T) {
		s, dir := newStore(t)
		mustCreate(t, s, "x", map[string]string{"K": "v"})
		newID(filepath.Join(dir, identityName))
		s, err := Open(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Get("x")
		wantError(t, err, dreamcore.CodeSetup, "another identity", "dreamcore secret delete x")
	})
}

func TestInitRefusesToReplaceALostIdentity(t *testing.T) {
	s, dir := newStore(t)
	mustCreate(t, s, "x", map[string]string{"K": "v"})
	os.Remove(filepath.Join(dir, identityName))
	_, err := Init(dir, "")
	wantError(t, err, dreamcore.CodeSetup, "is lost", "from a backup")
	if _, err := os.Stat(filepath.Join(dir, identityName)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("a new identity was created despite sealed secrets")
	}
}

func TestAnIdentityFromOutside(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	outside := filepath.Join(t.TempDir(), "credential")
	_, err := Init(dir, outside)
	wantError(t, err, dreamcore.CodeSetup, "does not exist", "LoadCredential")
	old, _ := age.GenerateX25519Identity()
	os.WriteFile(outside, []byte(old.String()+"\n"), 0o400)
	if created, err := Init(dir, outside); err != nil || created {
		t.Fatalf("%v, %v", created, err)
	}
	if _, err := os.Stat(filepath.Join(dir, identityName)); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("an identity was created inside too")
	}
	s, err := Open(dir, outside)
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, s, "x", map[string]string{"K": "v"})
	// A new first identity seals from now on, and the old one still opens.
	now, _ := age.GenerateX25519Identity()
	os.Remove(outside)
	os.WriteFile(outside, []byte(now.String()+"\n"+old.String()+"\n"), fileMode)
	s, err = Open(dir, outside)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := s.Value("x", "K"); err != nil || v != "v" {
		t.Fatalf("%q, %v", v, err)
	}
}

func TestADamagedSecretIsReportedWithoutQuotingIt(t *testing.T) {
	s, dir := newStore(t)
	mustCreate(t, s, "x", map[string]string{"K": "needle"})
	path := filepath.Join(dir, "x.age")
	good, _ := os.ReadFile(path)
	flipped := append([]byte(nil), good...)
	flipped[len(flipped)-1] ^= 1
	seal := func(plain string) []byte {
		var b strings.Builder
		w, _ := age.Encrypt(&b, s.recipient)
		w.Write([]byte(plain))
		w.Close()
		return []byte(b.String())
	}
	for name, data := range map[string][]byte{
		"empty": nil, "cut": good[:len(good)-5], "bit flipped": flipped, "text": []byte("needle"),
		"no object": seal(`["needle"]`), "numbers": seal(`{"K":1}`), "bad key": seal(`{"needle key":"v"}`), "nothing": seal(`{}`),
	} {
		os.WriteFile(path, data, fileMode)
		_, err := s.Get("x")
		wantError(t, err, dreamcore.CodeSetup, "secret x is damaged", "dreamcore secret create x")
		if strings.Contains(err.Error(), "needle") {
			t.Errorf("%s: the error quotes the secret: %v", name, err)
		}
	}
}

func TestACredentialSharedOnlyWithThisUserIsPrivate(t *testing.T) {
	entry := func(tag, perm byte, id uint32) string {
		return string([]byte{tag, 0, perm, 0, byte(id), byte(id >> 8), byte(id >> 16), byte(id >> 24)})
	}
	const none = ^uint32(0)
	head, owner, mask := "\x02\x00\x00\x00", entry(0x01, 4, none), entry(0x10, 4, none)
	for name, c := range map[string]struct {
		acl  string
		want bool
	}{
		"as systemd makes it":     {head + owner + entry(0x02, 4, 1000) + entry(0x04, 0, none) + mask + entry(0x20, 0, none), true},
		"another user":            {head + owner + entry(0x02, 4, 1001) + entry(0x04, 0, none) + mask + entry(0x20, 0, none), false},
		"us and another user":     {head + owner + entry(0x02, 4, 1000) + entry(0x02, 4, 1001) + mask, false},
		"the group of the owner":  {head + owner + entry(0x02, 4, 1000) + entry(0x04, 4, none) + mask, false},
		"a group":                 {head + owner + entry(0x02, 4, 1000) + entry(0x08, 4, 5) + mask, false},
		"all":                     {head + owner + entry(0x02, 4, 1000) + entry(0x20, 4, none), false},
		"no entry for us":         {head + owner + entry(0x04, 0, none) + entry(0x20, 0, none), false},
		"unknown tag":             {head + entry(0x02, 4, 1000) + entry(0x40, 0, none), false},
		"cut":                     {head + entry(0x02, 4, 1000)[:5], false},
		"empty":                   {"", false},
		"another version":         {"\x03\x00\x00\x00" + entry(0x02, 4, 1000), false},
		"no permission for other": {head + entry(0x02, 4, 1000) + entry(0x02, 0, 1001), true},
	} {
		if got := aclOnlyFor([]byte(c.acl), 1000); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	t.Run("on a file", func(t *testing.T) {
		_, dir := newStore(t)
		path := filepath.Join(dir, identityName)
		euid := uint32(os.Geteuid())
		acl := head + owner + entry(0x02, 4, euid) + entry(0x04, 0, none) + mask + entry(0x20, 0, none)
		if err := syscall.Setxattr(path, "system.posix_acl_access", []byte(acl), 0); err != nil {
			t.Skipf("no access control lists here: %v", err)
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o440 {
			t.Fatalf("mode %v", info.Mode())
		}
		if _, err := Open(dir, ""); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, 0o460)
		_, err := Open(dir, "")
		wantError(t, err, dreamcore.CodeSetup, "mode 0460", "chmod 600")
	})
}

func TestADirectoryThatCannotBeWritten(t *testing.T) {
	s, dir := newStore(t)
	mustCreate(t, s, "x", map[string]string{"K": "v"})
	if err := syscall.Mount(dir, dir, "", syscall.MS_BIND, ""); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	if err := syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Skipf("cannot mount here: %v", err)
	}
	values := map[string]string{"K": "new"}
	wantError(t, s.Create("y", values, false), dreamcore.CodeSetup, "cannot write secret y", "ls -ld")
	wantError(t, s.Create("x", values, true), dreamcore.CodeSetup, "cannot write secret x", "ls -ld")
	wantError(t, s.Delete("x"), dreamcore.CodeSetup, "cannot delete secret x", "ls -ld")
	if v, err := s.Value("x", "K"); err != nil || v != "v" {
		t.Fatalf("%q, %v", v, err)
	}
}

func TestAFullDiskKeepsTheOldSecret(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=100k"); err != nil {
		t.Skipf("cannot mount a small tmpfs here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	secrets := filepath.Join(dir, "secrets")
	Init(secrets, "")
	s, err := Open(secrets, "")
	if err != nil {
		t.Fatal(err)
	}
	mustCreate(t, s, "x", map[string]string{"K": strings.Repeat("v", 50<<10)})
	err = s.Create("x", map[string]string{"K": strings.Repeat("n", 64<<10)}, true)
	wantError(t, err, dreamcore.CodeSetup, "cannot write secret x", "disk is full")
	if v, err := s.Value("x", "K"); err != nil || v[0] != 'v' {
		t.Fatalf("%.5q, %v", v, err)
	}
	if left, _ := filepath.Glob(filepath.Join(secrets, statefile.TempPrefix+"*")); len(left) != 0 {
		t.Fatalf("residue: %v", left)
	}
}

func TestTheInternalSecretRotatesWithTwoValidValues(t *testing.T) {
	s, _ := newStore(t)
	_, err := s.InternalValues()
	wantError(t, err, dreamcore.CodeNotFound, InternalSecret, "dreamcore setup")
	_, err = s.RotateInternal()
	wantError(t, err, dreamcore.CodeNotFound, InternalSecret, "dreamcore setup")
	first := NewInternalSecret()
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(first) || first == NewInternalSecret() {
		t.Fatalf("%q", first)
	}
	mustCreate(t, s, InternalSecret, map[string]string{InternalKey: first, "OTHER": "kept"})
	want := func(values ...string) {
		t.Helper()
		got, err := s.InternalValues()
		if err != nil || strings.Join(got, " ") != strings.Join(values, " ") {
			t.Fatalf("got %v, %v, want %v", got, err, values)
		}
	}
	want(first)
	second, err := s.RotateInternal()
	if err != nil || second == first {
		t.Fatal(second, err)
	}
	want(second, first)
	third, _ := s.RotateInternal()
	want(third, second)
	for _, ended := range []bool{true, false} {
		if got, err := s.EndRotation(); err != nil || got != ended {
			t.Fatalf("end: %v, %v", got, err)
		}
		want(third)
	}
	if v, _ := s.Value(InternalSecret, "OTHER"); v != "kept" {
		t.Fatalf("another key became %q", v)
	}
	s.Create(InternalSecret, map[string]string{"OTHER": "x"}, true)
	_, err = s.InternalValues()
	wantError(t, err, dreamcore.CodeSetup, "has no key", "dreamcore setup")
}

func TestConcurrentWritersLeaveOneOfTheirValues(t *testing.T) {
	s, dir := newStore(t)
	mustCreate(t, s, InternalSecret, map[string]string{InternalKey: "first"})
	var all sync.WaitGroup
	var mu sync.Mutex
	made := map[string]bool{"first": true}
	for range 8 {
		all.Go(func() {
			other, err := Open(dir, "")
			if err != nil {
				t.Error(err)
				return
			}
			for range 5 {
				v, err := other.RotateInternal()
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				made[v] = true
				mu.Unlock()
				if values, err := s.InternalValues(); err != nil || len(values) != 2 {
					t.Errorf("%v, %v", values, err)
				}
			}
		})
	}
	all.Wait()
	values, err := s.InternalValues()
	if err != nil || len(made) != 41 || !made[values[0]] || !made[values[1]] || values[0] == values[1] {
		t.Fatalf("%v, %v", values, err)
	}
}

func TestCheckAPIKeyAcceptsKeysOfAnyVendor(t *testing.T) {
	for _, key := range []string{"sk-ant-api03-abc_DEF-123", "x", "gateway:token/1+2==", "QUJDREVGRw==", "QUJD=", "sk_live-KEY", "a=b", "AKIA'x", strings.Repeat("k", 4<<10)} {
		if err := CheckAPIKey(key); err != nil {
			t.Errorf("%.20q: %v", key, err)
		}
	}
	for _, key := range []string{"", " ", "needle key", "needle\n", "\tneedle", "needle\x00", "needle\x7f", "needle\u00a0", "needle\u200b", "needle\xff",
		`"needle"`, "'needle'", "needle'", "`needle`", "“needle”", "ANTHROPIC_API_KEY=needle", `ANTHROPIC_API_KEY="needle"`, "anthropic_api_key=needle", "apiKey=needle", "KEY==needle",
		"Bearer:needle", "bearer=needle", "Authorization:needle", "x-api-key:needle", "api_key:needle", "anthropic-api-key:needle",
		"$ANTHROPIC_API_KEY", "${needle}", "{needle}", "<needle>", "needle,", "needle;", "needleß", "export ANTHROPIC_API_KEY=needle", strings.Repeat("k", 4<<10+1)} {
		err := CheckAPIKey(key)
		if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" || strings.Contains(err.Error(), "needle") {
			t.Errorf("%.20q: %v", key, err)
		}
	}
}
