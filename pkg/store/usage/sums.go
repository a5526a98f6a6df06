package usage

import (
	"bytes"
	"cmp"
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
	"strconv"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// The sums of a closed day are saved, so that a start reads them instead of every
// record of the month. They are only a shortcut: sums that are missing, damaged, in
// another form, or of another version of the file (compared by size and
// modification time, which a late record changes too) are computed again from the
// whole file.
const (
	sumsExtension = ".sums"
	sumsForm      = 2        // format of the files; changes when records count differently
	maxSums       = 64 << 20 // bytes of a file; larger sums are not saved
)

// sums is what each user has spent on each day that occurs in a file.
type sums map[sumsKey]sum

type sumsKey struct {
	day, user string
	moved     bool // see Record.Moved
}

func (s sums) count(r Record) {
	k := sumsKey{dayOf(r.Time), r.User, r.Moved}
	s[k] = s[k].plus(sum{r.Cost, r.Tokens().Total()})
}

// sumsHead is the second line of a file of sums. The first line is the checksum of
// everything after it; each further line is a sum, encoded as a record.
type sumsHead struct {
	Form    int   `json:"form"`
	Size    int64 `json:"size"`    // of the day's file
	Changed int64 `json:"changed"` // modification time of the file, in nanoseconds
	Read    int64 `json:"read"`    // size of its whole lines, which the sums cover
}

func headOf(info fs.FileInfo, read int64) sumsHead {
	return sumsHead{Form: sumsForm, Size: info.Size(), Changed: info.ModTime().UnixNano(), Read: read}
}

// closedDaySums returns the sums of a closed day, and how many bytes of its file
// they cover. saveErr is set if they could not be saved for the next start.
func closedDaySums(root *os.Root, day string) (s sums, read int64, saveErr, err error) {
	f, err := root.Open(day + extension)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil, nil // removed meanwhile
	}
	if err != nil {
		return nil, 0, nil, diskError("open the ledger", err)
	}
	defer f.Close()
	// The order matters: a record that is appended after this changes the file's
	// size and time.
	info, err := f.Stat()
	if err != nil {
		return nil, 0, nil, diskError("read the ledger", err)
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
	// Sums must not outlive their records in a power cut.
	if saveErr = f.Sync(); saveErr == nil {
		saveErr = writeSums(root, day, s, headOf(info, read))
	}
	return s, read, saveErr, nil
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
	// Sums that differ from the records are worse than none.
	if got, gotHead, ok := decodeSums(raw); !ok || gotHead != head || !maps.Equal(got, s) {
		return nil // records that Reserve does not write, such as an endless name, are read each time
	}
	// Another process may have pruned the temporary file: the next start saves them.
	return statefile.IgnoreMissing(statefile.Replace(root, day+sumsExtension, fileMode, statefile.Bytes(raw)))
}

func (s sums) encode(head sumsHead) ([]byte, error) {
	line, err := json.Marshal(head)
	if err != nil {
		return nil, err
	}
	body := append(line, '\n')
	for _, k := range slices.SortedFunc(maps.Keys(s), func(a, b sumsKey) int {
		return cmp.Or(strings.Compare(a.day+a.user, b.day+b.user), strings.Compare(strconv.FormatBool(a.moved), strconv.FormatBool(b.moved)))
	}) {
		day, err := time.Parse(dayForm, k.day)
		if err != nil {
			return nil, fmt.Errorf("encode sums: %w", err)
		}
		line, err := Record{Time: day, User: k.user, Input: s[k].tokens, Cost: s[k].cost, Moved: k.moved}.encode()
		if err != nil {
			return nil, err
		}
		body = append(body, line[1:]...)
	}
	return fmt.Appendf(nil, "%x\n%s", sha256.Sum256(body), body), nil
}

func decodeSums(raw []byte) (s sums, head sumsHead, ok bool) {
	checksum, body, _ := bytes.Cut(raw, []byte("\n"))
	sum := sha256.Sum256(body)
	if len(raw) > maxSums || string(checksum) != hex.EncodeToString(sum[:]) {
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

// pruneSums removes the sums of earlier months, which are not needed, those of
// removed days, and unfinished ones of processes that died.
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
		if err := statefile.IgnoreMissing(root.Remove(name)); err != nil {
			return err
		}
	}
	return statefile.Sweep(root)
}
