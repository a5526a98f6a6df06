package verdict

// Browsers are the programs that can play games, the smallest first: paths in the
// root file system of sandboxes.
func Browsers() []string {
	return []string{
		"/usr/lib/chromium/chromium-headless-shell", "/usr/bin/chromium-headless-shell",
		"/usr/bin/chrome-headless-shell", "/usr/lib/chromium/chromium", "/usr/bin/chromium",
		"/usr/bin/chromium-browser", "/usr/bin/google-chrome-stable", "/usr/bin/google-chrome",
	}
}
