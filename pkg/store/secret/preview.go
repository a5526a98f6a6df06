package secret

import "github.com/notef-neighbor/dreamcore/pkg/dreamcore"

// PreviewValue returns the key of previews and creates it if it is missing. It is
// independent of the internal secret: rotating that must not give games other
// origins, because browsers would lose the data they store for a game.
func (s *Store) PreviewValue() (string, error) {
	value, err := s.Value(PreviewSecret, PreviewKey)
	if dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return value, err
	}
	err = s.Create(PreviewSecret, map[string]string{PreviewKey: NewInternalSecret()}, false)
	if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeConflict { // another process has created it
		return "", err
	}
	return s.Value(PreviewSecret, PreviewKey)
}
