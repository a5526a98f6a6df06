package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
)

// The plot: a bar for each row of milliseconds, from the median to the 99th
// percentile on a logarithmic scale, and a line for each curve.
const (
	width   = 960
	left    = 330 // of the bars
	rowHigh = 18
	curveH  = 220
)

var inks = []string{"#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed"}

// plot returns the report as a picture.
func plot(r *report) []byte {
	var body bytes.Buffer
	y := 30
	text(&body, 10, y, 14, fmt.Sprintf("dreamcore, %s, %d cores: median (bar) and 99th percentile (line), ms, logarithmic", r.Time.Format("2006-01-02"), r.Cores))
	low, high := span(r)
	x := func(ms float64) float64 {
		return left + (width-left-90)*(math.Log10(max(ms, 1e-3))-low)/(high-low)
	}
	part := ""
	for _, row := range r.Rows {
		if row.Unit != "ms" {
			continue
		}
		if row.Part != part {
			part = row.Part
			y += rowHigh + 10
			text(&body, 10, y, 13, part)
		}
		y += rowHigh
		text(&body, 20, y, 11, row.Name)
		fmt.Fprintf(&body, `<rect x="%d" y="%d" width="%.1f" height="10" fill="%s"/>`+"\n", left, y-9, x(row.Median)-left, inks[0])
		fmt.Fprintf(&body, `<path d="M%.1f %dH%.1f" stroke="%s" stroke-width="2"/>`+"\n", x(row.Median), y-4, x(row.P99), inks[1])
		text(&body, int(x(row.P99))+6, y, 11, fmt.Sprintf("%.1f", row.Median))
	}
	if len(r.Curves) > 0 {
		y = curvesBelow(&body, r.Curves, y+40)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif">`+"\n", width, y+20)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, y+20)
	out.Write(body.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// span returns the powers of ten around all values of rows.
func span(r *report) (low, high float64) {
	low, high = 0, 1
	for _, row := range r.Rows {
		if row.Unit == "ms" {
			low = min(low, math.Floor(math.Log10(max(row.Median, 1e-3))))
			high = max(high, math.Ceil(math.Log10(max(row.P99, 1e-3))))
		}
	}
	return low, high
}

// curvesBelow draws the curves on logarithmic scales from y on, and returns the end.
func curvesBelow(w *bytes.Buffer, curves []curve, y int) int {
	low, high, most := math.Inf(1), math.Inf(-1), 1.0
	for _, c := range curves {
		for i, ms := range c.Millis {
			v := math.Log10(max(ms, 1e-3))
			low, high, most = min(low, math.Floor(v)), max(high, math.Ceil(v)), max(most, math.Log10(float64(c.Of[i])))
		}
	}
	if low >= high {
		high = low + 1
	}
	for p := low; p <= high; p++ {
		at := y + int(curveH*(high-p)/(high-low))
		fmt.Fprintf(w, `<path d="M60 %dH%d" stroke="#ddd"/>`+"\n", at, width-40)
		text(w, 10, at+4, 11, fmt.Sprintf("%g ms", math.Pow(10, p)))
	}
	for i, c := range curves {
		ink := inks[i%len(inks)]
		var d bytes.Buffer
		for k, ms := range c.Millis {
			verb := "L"
			if k == 0 {
				verb = "M"
			}
			cx := 60 + (width-100)*math.Log10(float64(c.Of[k]))/most
			cy := float64(y) + curveH*(high-math.Log10(max(ms, 1e-3)))/(high-low)
			fmt.Fprintf(&d, "%s%.1f %.1f", verb, cx, cy)
			if i == 0 {
				text(w, int(cx)-8, y+curveH+16, 11, fmt.Sprint(c.Of[k]))
			}
		}
		fmt.Fprintf(w, `<path d="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", d.String(), ink)
		fmt.Fprintf(w, `<rect x="60" y="%d" width="10" height="10" fill="%s"/>`+"\n", y+curveH+26+i*rowHigh, ink)
		text(w, 76, y+curveH+35+i*rowHigh, 11, c.Name)
	}
	return y + curveH + 30 + len(curves)*rowHigh
}

func text(w *bytes.Buffer, x, y, size int, s string) {
	fmt.Fprintf(w, `<text x="%d" y="%d" font-size="%d">%s</text>`+"\n", x, y, size, html.EscapeString(s))
}
