// Package mediatype knows the MIME types of the files of games.
package mediatype

import (
	"mime"
	"path"
	"strings"
)

// types are the MIME types of games; the table of the host may lack or change
// them.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
	".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
	".json": "application/json", ".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg",
	".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".ico": "image/x-icon",
	".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".wav": "audio/wav", ".m4a": "audio/mp4",
	".woff": "font/woff", ".woff2": "font/woff2", ".ttf": "font/ttf", ".otf": "font/otf",
	".txt": "text/plain; charset=utf-8", ".md": "text/markdown; charset=utf-8", ".wasm": "application/wasm",
	".glb": "model/gltf-binary", ".gltf": "model/gltf+json", ".mp4": "video/mp4", ".webm": "video/webm",
}

// Of returns the MIME type of a file name.
func Of(name string) string {
	ext := strings.ToLower(path.Ext(name))
	if t, ok := types[ext]; ok {
		return t
	}
	if t := mime.TypeByExtension(ext); t != "" {
		return t
	}
	return "application/octet-stream"
}

// IsPage reports whether a file of a project, with "/" in its path, is a page that
// stands for a missing index.html, and is checked: an HTML file that is not hidden.
func IsPage(name string) bool {
	return strings.HasSuffix(name, ".html") && !strings.HasPrefix(name, ".") && !strings.Contains(name, "/.")
}
