package history

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"image/png"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Pictures of the game in a version lie in the repository, so that they count as
// part of it, and go with the version and with the project:
//
//	history/U/P.git/shots/HASH-SCREEN.png

const (
	shotsDir = "shots"

	// MaxShots limits the pictures of a project: those of the newest versions stay.
	MaxShots = 24
	// MaxShotBytes limits one picture, as it comes and as it is kept.
	MaxShotBytes = 1 << 20
	// MaxShotSide limits the width and the height of a picture, in pixels, and
	// maxShotArea their product: a small file may decode to a large picture.
	MaxShotSide = 2048
	maxShotArea = 2 << 20
)

// Screens are the screens of which there may be pictures.
var Screens = []string{"phone", "desktop"}

// SaveShot keeps a picture of the game in a version, as PNG. The picture is
// hostile: it is bounded before it is decoded, and only its pixels are kept.
// CodeInvalid: it is no picture within the bounds; CodeNotFound: there is no such
// version. Other errors are those of Record.
func (s *Store) SaveShot(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash, screen string, picture []byte) error {
	if !slices.Contains(Screens, screen) {
		return errScreen()
	}
	clean, err := CleanPicture(picture)
	if err != nil {
		return err
	}
	r, commit, err := s.find(ctx, user, project, hash)
	if err != nil {
		return err
	}
	waiting, stop := context.WithTimeout(ctx, slotPatience)
	unlock, err := lock(waiting, r.dir)
	stop()
	if err != nil {
		return diskError("lock the history", err)
	}
	defer unlock()
	if err := r.writeShot(commit.Hash, screen, clean, s.shotBytes()); err != nil {
		return diskError("save the picture", err)
	}
	return nil
}

func errScreen() error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid screen: must be phone or desktop", Hint: "leave it out for phone"}
}

// CleanPicture decodes a picture within the bounds of SaveShot, and encodes its pixels
// again. CodeInvalid: it is not a picture.
func CleanPicture(picture []byte) ([]byte, error) {
	if len(picture) > MaxShotBytes {
		return nil, badShot(fmt.Errorf("%d bytes", len(picture)))
	}
	c, err := png.DecodeConfig(bytes.NewReader(picture))
	if err != nil {
		return nil, badShot(err)
	}
	if c.Width < 1 || c.Height < 1 || c.Width > MaxShotSide || c.Height > MaxShotSide || c.Width*c.Height > maxShotArea {
		return nil, badShot(fmt.Errorf("%d × %d pixels", c.Width, c.Height))
	}
	img, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, badShot(err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return nil, badShot(err)
	}
	if b.Len() > MaxShotBytes {
		return nil, badShot(fmt.Errorf("%d bytes", b.Len()))
	}
	return b.Bytes(), nil
}

func badShot(err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the picture of the game is not a PNG within the bounds", Err: err}
}

// shotShare is the part of a limit of Limits that pictures may take: versions are
// worth more.
const shotShare = 8

// shotBytes returns how many bytes the pictures of one project may take; 0 means no
// limit.
func (s *Store) shotBytes() int64 {
	l := s.limits.Load()
	most := l.ProjectBytes
	if l.UserBytes > 0 && (most <= 0 || l.UserBytes < most) {
		most = l.UserBytes
	}
	return most / shotShare
}

// writeShot must be called with the lock held.
func (r *repo) writeShot(hash plumbing.Hash, screen string, picture []byte, most int64) error {
	head, err := r.head()
	if err != nil {
		return r.damaged(err)
	}
	size, sized := r.knownSize(head)
	before, err := r.shots()
	if err != nil {
		return err
	}
	if err := r.forgetSize(); err != nil {
		return err
	}
	dir := filepath.Join(r.dir, shotsDir)
	switch err := os.Mkdir(dir, dirMode); {
	case err == nil:
		sized = false // the directory itself has a size, too
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	name := filepath.Join(dir, shotName(hash.String(), screen))
	if err := statefile.ReplaceCacheFile(name, fileMode, statefile.Bytes(picture)); err != nil {
		return err
	}
	after, err := r.boundShots(most)
	if err != nil {
		return err
	}
	if sized {
		_ = r.noteSize(head, max(size+sum(after)-sum(before), 0)) // only a cache
	}
	return nil
}

func shotName(hash, screen string) string { return hash + "-" + screen + ".png" }

// shotFile is a picture in the repository.
type shotFile struct {
	path  string
	hash  string // of its version; "" for a foreign file
	bytes int64  // on disk
	when  time.Time
}

// shots returns the pictures of the repository, the newest first.
func (r *repo) shots() (all []shotFile, err error) {
	dir := filepath.Join(r.dir, shotsDir)
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		f := shotFile{path: filepath.Join(dir, e.Name()), bytes: blocks(info), when: info.ModTime()}
		if hash, _, ok := strings.Cut(e.Name(), "-"); ok && isHash(hash) && !strings.HasPrefix(e.Name(), statefile.TempPrefix) {
			f.hash = hash
		}
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b shotFile) int { return cmp.Or(b.when.Compare(a.when), cmp.Compare(b.path, a.path)) })
	return all, statefile.IgnoreMissing(err)
}

// boundShots removes the oldest pictures beyond MaxShots and beyond a number of
// bytes, and the remains of killed writers, and returns those that stay. It must be
// called with the lock held.
func (r *repo) boundShots(most int64) (kept []shotFile, err error) {
	all, err := r.shots()
	for _, f := range all {
		if f.hash != "" && len(kept) < MaxShots && (most <= 0 || sum(kept)+f.bytes <= most) {
			kept = append(kept, f)
			continue
		}
		err = errors.Join(err, statefile.IgnoreMissing(os.Remove(f.path)))
	}
	return kept, err
}

// sum returns the bytes of pictures on disk.
func sum(shots []shotFile) (total int64) {
	for _, f := range shots {
		total += f.bytes
	}
	return total
}

// Shots calls visit with each picture of a project, the oldest first, so that a copy
// that saves them in this order keeps the same ones. The errors are visit's, and errors
// of the disk.
func (s *Store) Shots(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, visit func(hash, screen string, picture []byte) error) error {
	r, err := s.open(user, project)
	if r == nil {
		return err
	}
	all, err := r.shots()
	if err != nil {
		return diskError("list the pictures", err)
	}
	for _, f := range slices.Backward(all) {
		hash, screen, _ := strings.Cut(strings.TrimSuffix(filepath.Base(f.path), ".png"), "-")
		if f.hash == "" || !slices.Contains(Screens, screen) {
			continue
		}
		picture, err := os.ReadFile(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return diskError("read the picture", err)
		}
		if err := errors.Join(context.Cause(ctx), visit(hash, screen, picture)); err != nil {
			return err
		}
	}
	return nil
}

// dropShots removes the pictures of versions that has does not report, and returns
// the bytes that are freed. It must be called with the lock held.
func (r *repo) dropShots(has func(plumbing.Hash) bool) (freed int64, err error) {
	all, err := r.shots()
	for _, f := range all {
		if f.hash != "" && has(plumbing.NewHash(f.hash)) {
			continue
		}
		if removed := os.Remove(f.path); removed != nil {
			err = errors.Join(err, statefile.IgnoreMissing(removed))
			continue
		}
		freed += f.bytes
	}
	return freed, err
}

// Shot returns the picture of a version and the version's hash. hash is 7 to 40
// hexadecimal digits, or "" for the newest version that has a picture of the screen.
// screen is one of Screens. CodeInvalid: a parameter is malformed; CodeNotFound:
// there is no such version, or no picture of it.
func (s *Store) Shot(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash, screen string) (picture []byte, version string, err error) {
	if !slices.Contains(Screens, screen) {
		return nil, "", errScreen()
	}
	var r *repo
	if hash == "" {
		if r, err = s.open(user, project); err != nil {
			return nil, "", err
		}
		if r == nil {
			return nil, "", errNoShot()
		}
		if version, err = r.newestShot(screen); err != nil {
			return nil, "", diskError("find the picture", err)
		}
	} else {
		found, commit, err := s.find(ctx, user, project, hash)
		if err != nil {
			return nil, "", err
		}
		r, version = found, commit.Hash.String()
	}
	if version == "" {
		return nil, "", errNoShot()
	}
	picture, err = os.ReadFile(filepath.Join(r.dir, shotsDir, shotName(version, screen)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", errNoShot()
	}
	if err != nil {
		return nil, "", diskError("read the picture", err)
	}
	return picture, version, nil
}

// newestShot returns the version of the newest picture of a screen, or "".
func (r *repo) newestShot(screen string) (string, error) {
	all, err := r.shots()
	for _, f := range all {
		if f.hash != "" && strings.HasSuffix(f.path, "-"+screen+".png") {
			return f.hash, nil
		}
	}
	return "", err
}

func errNoShot() error {
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "There is no picture of this game yet", Hint: "check the game, or make a version of it while acceptance is on"}
}
