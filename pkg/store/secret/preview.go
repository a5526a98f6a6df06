package secret

import "github.com/notef-neighbor/dreamcore/pkg/dreamcore"

// PreviewValue returns the key of previews and makes it where there is none.
// It has nothing to do with the internal secret: a rotation of that must not
// give games other origins, since what browsers keep for a game is lost then.
func (s *Store) PreviewValue() (string, error) {
	value, err := s.Value(PreviewSecret, PreviewKey)
	if dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return value, err
	}
	err = s.Create(PreviewSecret, map[string]string{PreviewKey: NewInternalSecret()}, false)
	if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeConflict { // another process was quicker
		return "", err
	}
	return s.Value(PreviewSecret, PreviewKey)
}
