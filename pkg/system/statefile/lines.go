package statefile

import (
	"bufio"
	"errors"
	"io"
	"slices"
)

// Frame returns a record as it is appended to a log of lines: between two line
// breaks. The first one ends the torn line of a process that died, so that
// several processes can append without a lock: Linux writes to a file that is
// open for appending in one piece.
func Frame(record []byte) []byte {
	return slices.Concat([]byte("\n"), record, []byte("\n"))
}

// Lines calls fn with each whole line of src that has at most maxLine bytes, the
// line break included, until fn returns false. Longer lines are skipped. size is
// the number of bytes of the lines that were read; what follows the last line
// break may still be written.
func Lines(src io.Reader, maxLine int, fn func(line []byte) (more bool)) (size int64, err error) {
	const bufferSize = 64 << 10
	r := bufio.NewReaderSize(src, max(bufferSize, maxLine))
	for tooLong := false; ; {
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			tooLong = true
			size += int64(len(line))
			continue
		case errors.Is(err, io.EOF):
			return size, nil
		case err != nil:
			return size, err
		}
		size += int64(len(line))
		if !tooLong && len(line) <= maxLine && !fn(line) {
			return size, nil
		}
		tooLong = false
	}
}
