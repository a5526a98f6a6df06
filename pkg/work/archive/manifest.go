package archive

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"os"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// The manifest of a backup has a line for each entry, with its path. Sandboxes
// choose these names in every project, so the manifest is never held in memory as
// a whole.

// manifestSink is a sink that also records a manifest of its entries, in an unnamed
// file.
type manifestSink struct {
	sink
	file *os.File
	buf  *bufio.Writer
	size int64
}

// newManifestSink returns a sink that records a manifest in an unnamed file in dir.
// closeManifest must be called.
func newManifestSink(s sink, dir string) (*manifestSink, error) {
	f, err := os.CreateTemp(dir, ".manifest-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &manifestSink{sink: s, file: f, buf: bufio.NewWriterSize(f, 64<<10)}, nil
}

func (l *manifestSink) put(ctx context.Context, e tree.Entry, src io.Reader) (size int64, sum []byte, err error) {
	size, sum, err = l.sink.put(ctx, e, src)
	if err == nil || errors.Is(err, errChanged) {
		n, writeErr := l.buf.WriteString(manifestLine(e, size, sum))
		l.size += int64(n)
		err = errors.Join(err, writeErr)
	}
	return size, sum, err
}

// writeManifest writes the manifest to the sink.
func (l *manifestSink) writeManifest() error {
	if err := l.buf.Flush(); err != nil {
		return err
	}
	if _, err := l.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, _, err := l.sink.put(context.Background(), tree.Entry{Path: manifestName, Mode: fileMode, Size: l.size, Modified: time.Now()}, io.LimitReader(l.file, l.size))
	return err
}

func (l *manifestSink) closeManifest() error { return l.file.Close() }

// entryHashes holds the entries of a backup, to be compared with its manifest: a short
// hash of each line, which identifies the first one that differs, and a hash of
// all lines.
type entryHashes struct {
	all   hash.Hash
	lines []uint64
}

func newEntryHashes() *entryHashes { return &entryHashes{all: sha256.New()} }

func (f *entryHashes) add(line string) {
	_, _ = io.WriteString(f.all, line)
	f.lines = append(f.lines, shortSum(line))
}

func shortSum(line string) uint64 {
	sum := sha256.Sum256([]byte(line))
	return binary.BigEndian.Uint64(sum[:])
}

// maxLine limits a line of a manifest: a path and a link, both quoted.
const maxLine = 1 << 20

// compare compares the entries with the manifest of a backup.
func (f *entryHashes) compare(src string, manifest io.Reader) error {
	want := sha256.New()
	lines := bufio.NewScanner(io.TeeReader(manifest, want))
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	n := 0
	for ; lines.Scan(); n++ {
		if n == len(f.lines) {
			return damaged(src, errors.New("it holds less than its manifest"))
		}
		if shortSum(lines.Text()+"\n") != f.lines[n] {
			fields := strings.SplitN(lines.Text(), " ", 5)
			return damaged(src, errors.New("it differs from its manifest at "+fields[len(fields)-1]))
		}
	}
	if err := lines.Err(); err != nil {
		return damaged(src, err)
	}
	if n < len(f.lines) || string(want.Sum(nil)) != string(f.all.Sum(nil)) {
		return damaged(src, errors.New("it differs from its manifest"))
	}
	return nil
}
