package rootfs

import (
	"encoding/xml"
	"testing"
)

// TestNoCacheOfFontsIsShared: the agent would choose what the browser of the check
// reads.
func TestNoCacheOfFontsIsShared(t *testing.T) {
	var c struct {
		Caches []struct {
			Prefix string `xml:"prefix,attr"`
			Dir    string `xml:",chardata"`
		} `xml:"cachedir"`
	}
	if err := xml.Unmarshal([]byte(usualFonts), &c); err != nil || len(c.Caches) != 1 {
		t.Fatalf("%+v, %v", c, err)
	}
	if got := c.Caches[0]; got.Prefix != "xdg" || got.Dir != "fontconfig" {
		t.Errorf("%+v is not the user's own", got)
	}
}
