package usage

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// The file of a day that is over gets its sums beside it, DATE.sums, so that a
// start reads them instead of every record of the month. They are a shortcut
// and never needed: what is missing, damaged, of another form, or made from
// another file than the one that is there now (whose size or time of change
// tells: also of a record that came late) is made anew from the whole file.
const (
	sumsExtension = ".sums"
	sumsForm      = 1        // of the files; another one when other records count, or count differently
	maxSums       = 64 << 20 // of a file; more is not kept
)

// sums are what each user has spent on each day that the records of a file say.
type sums map[sumsKey]sum

type sumsKey struct{ day, user string }

func (s sums) count(r Record) {
	k := sumsKey{dayOf(r.Time), r.User}
	s[k] = s[k].plus(sum{r.Cost, r.Tokens().Total()})
}

// sumsHead is the second line of a file of sums; the first is the checksum of
// all that follows, and after it each sum is written as a record would be.
type sumsHead struct {
	Form    int   `json:"form"`
	Size    int64 `json:"size"`    // of the day's file
	Changed int64 `json:"changed"` // when it was, in nanoseconds
	Read    int64 `json:"read"`    // how much of it the sums are of: its whole lines
}

func headOf(info fs.FileInfo, read int64) sumsHead {
	return sumsHead{Form: sumsForm, Size: info.Size(), Changed: info.ModTime().UnixNano(), Read: read}
}

// sumUpDay returns the sums of the file of a day that is over, and how many
// bytes of it they are of. Where they cannot be kept for the next time, kept
// says why.
func sumUpDay(root *os.Root, day string) (s sums, read int64, kept, err error) {
	f, err := root.Open(day + extension)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil, nil // removed meanwhile
	}
	if err != nil {
		return nil, 0, nil, diskError("open the books", err)
	}
	defer f.Close()
	// Before anything is read: what is appended from here on makes the file another.
	info, err := f.Stat()
	if err != nil {
		return nil, 0, nil, diskError("read the books", err)
	}
	if raw, err := readSums(root, day); err == nil {
		if s, head, ok := decodeSums(raw); ok && head == headOf(info, head.Read) {
			return s, head.Read, nil, nil
		}
	}
	s = sums{}
	if read, err = readLines(io.NewSectionReader(f, 0, info.Size()), s.count); err != nil {
		return nil, 0, nil, err
	}
	// A power cut must not leave sums of records that it took.
	if kept = f.Sync(); kept == nil {
		kept = writeSums(root, day, s, headOf(info, read))
	}
	return s, read, kept, nil
}

func readSums(root *os.Root, day string) ([]byte, error) {
	f, err := root.Open(day + sumsExtension)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSums+1))
}

func writeSums(root *os.Root, day string, s sums, head sumsHead) error {
	raw, err := s.encode(head)
	if err != nil {
		return err
	}
	// Sums that say another thing than the records are worse than none.
	if got, gotHead, ok := decodeSums(raw); !ok || gotHead != head || !maps.Equal(got, s) {
		return nil // what no process of ours writes, as a name without end: read each time
	}
	temp := day + sumsExtension + "." + rand.Text()
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = root.Rename(temp, day+sumsExtension)
	}
	if err != nil {
		_ = root.Remove(temp)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another process has tidied up: the next one writes them
	}
	return err
}

func (s sums) encode(head sumsHead) ([]byte, error) {
	line, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	body := append(line, '\n')
	for _, k := range slices.SortedFunc(maps.Keys(s), func(a, b sumsKey) int { return strings.Compare(a.day+a.user, b.day+b.user) }) {
		day, err := time.Parse(dayForm, k.day)
		if err != nil {
			return nil, fmt.Errorf("encode sums: %w", err)
		}
		line, err := Record{Time: day, User: k.user, Input: s[k].tokens, Cost: s[k].cost}.encode()
		if err != nil {
			return nil, err
		}
		body = append(body, line[1:]...)
	}
	return fmt.Appendf(nil, "%x\n%s", sha256.Sum256(body), body), nil
}

func decodeSums(raw []byte) (s sums, head sumsHead, ok bool) {
	told, body, _ := bytes.Cut(raw, []byte("\n"))
	sum := sha256.Sum256(body)
	if len(raw) > maxSums || string(told) != hex.EncodeToString(sum[:]) {
		return nil, head, false
	}
	first, lines, _ := bytes.Cut(body, []byte("\n"))
	if json.Unmarshal(first, &head) != nil || head.Read > head.Size {
		return nil, head, false
	}
	s = sums{}
	read, err := readLines(bytes.NewReader(lines), s.count)
	return s, head, err == nil && read == int64(len(lines))
}

// pruneSums removes sums of months that are over, which nobody asks for, those
// whose day is gone, and what somebody who died has left of some.
func pruneSums(root *os.Root, month string, days []string) error {
	names, err := fs.Glob(root.FS(), "*"+sumsExtension+"*")
	if err != nil {
		return err
	}
	for _, name := range names {
		day, ok := strings.CutSuffix(name, sumsExtension)
		if ok && strings.HasPrefix(day, month) && slices.Contains(days, day+extension) {
			continue
		}
		if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
