package archive

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

func TestMain(m *testing.M) {
	workForParent()
	goleak.VerifyTestMain(m)
}

// workForParent imports, backs up or restores in this process, if a test started
// it, and then exits.
func workForParent() {
	state, src := os.Getenv("ARCHIVE_TEST_STATE"), os.Getenv("ARCHIVE_TEST_FILE")
	if state == "" {
		return
	}
	volumes, err := volume.Open(state+"/volumes", volume.Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err == nil {
		_, err = volumes.Create(volume.Data)
	}
	var versions *history.Store
	if err == nil {
		versions, err = history.Open(state+"/history", history.Options{})
	}
	if err == nil {
		d := New(volumes, versions, Options{StateDir: state})
		fmt.Println("begun")
		switch os.Getenv("ARCHIVE_TEST_WORK") {
		case "import":
			_, err = d.Import(context.Background(), src, ImportOptions{})
		case "backup":
			_, err = d.Backup(context.Background(), src, BackupOptions{Force: true})
		case "restore":
			_, err = d.Restore(context.Background(), src, false)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}
