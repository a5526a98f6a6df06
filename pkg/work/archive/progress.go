package archive

import (
	"io"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Progress is the state of a long copy.
type Progress struct {
	Done, Total int // projects, or files of a Transfer; Total is 0 if it is not known
	Project     dreamcore.ProjectID
	Checking    bool  // a backup is checked before it is restored
	Bytes, Size int64 // that were read; Size is 0 if it is not known how many there are
}

// meter counts copied files and bytes, for the caller's function. It must not be used
// concurrently.
type meter struct {
	report func(Progress) // may be nil
	now    Progress
}

func (m *meter) show() {
	if m.report != nil {
		m.report(m.now)
	}
}

// projects notes that so many projects are done, and which is next.
func (m *meter) projects(done, total int, next dreamcore.ProjectID) {
	m.now.Done, m.now.Total, m.now.Project = done, total, next
	m.show()
}

// begin begins to count the bytes of a file.
func (m *meter) begin(size int64, checking bool) {
	m.now.Bytes, m.now.Size, m.now.Checking = 0, size, checking
	m.show()
}

// reader returns r, whose bytes are counted.
func (m *meter) reader(r io.Reader) io.Reader {
	if m == nil || m.report == nil || r == nil {
		return r
	}
	return &counter{r: r, each: func(n int) {
		m.now.Bytes += int64(n)
		m.show()
	}}
}

// counter counts the bytes that are read from r.
type counter struct {
	r    io.Reader
	n    int64
	each func(n int) // called for each read; may be nil
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if c.each != nil && n > 0 {
		c.each(n)
	}
	return n, err
}
