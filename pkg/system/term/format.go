package term

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Size formats a number of bytes in decimal units, such as "512 B", "1.2 kB"
// and "381 MB". A negative number becomes "0 B".
func Size(bytes int64) string {
	if bytes < 1000 {
		return strconv.FormatInt(max(0, bytes), 10) + " B"
	}
	value := float64(bytes)
	unit := ""
	for _, unit = range []string{"kB", "MB", "GB", "TB", "PB", "EB"} {
		value /= 1000
		if value < 999.5 {
			break
		}
	}
	if value < 99.95 {
		return strconv.FormatFloat(value, 'f', 1, 64) + " " + unit
	}
	return strconv.FormatFloat(value, 'f', 0, 64) + " " + unit
}

// Duration formats a time for people: "12 ms", "5.1 s", "30 s", "2m 05s",
// "3h 20m", "4d 2h". A negative one becomes "0 ms".
func Duration(d time.Duration) string {
	d = max(0, d)
	if d < time.Second {
		if ms := d.Round(time.Millisecond); ms < time.Second {
			return strconv.FormatInt(ms.Milliseconds(), 10) + " ms"
		}
	}
	if tenths := d.Round(100 * time.Millisecond); tenths < time.Minute {
		return strings.TrimSuffix(strconv.FormatFloat(tenths.Seconds(), 'f', 1, 64), ".0") + " s"
	}
	d = d.Round(time.Second)
	if d < time.Hour {
		return fmt.Sprintf("%dm %02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	d = d.Round(time.Minute)
	const day = 24 * time.Hour
	if d < 2*day {
		return fmt.Sprintf("%dh %02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	d = d.Round(time.Hour)
	return fmt.Sprintf("%dd %dh", d/day, d%day/time.Hour)
}

// Dollars formats a cost in US dollars, with two digits after the point, or four
// below one cent.
func Dollars(usd float64) string {
	if usd > 0 && usd < 0.01 {
		return fmt.Sprintf("$%.4f", usd)
	}
	return fmt.Sprintf("$%.2f", max(0, usd))
}

// Time formats a time for people: to the second, in UTC, with the name of the zone.
// Logs, the ledger and the audit log have the same zone.
func Time(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }
