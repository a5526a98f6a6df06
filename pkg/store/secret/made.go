package secret

import "github.com/notef-neighbor/dreamcore/pkg/dreamcore"

// PreviewValue returns the key of previews and creates it if it is missing. It is
// independent of the internal secret: rotating that must not give games other
// origins, because browsers would lose the data they store for a game.
func (s *Store) PreviewValue() (string, error) { return s.made(PreviewSecret, PreviewKey) }

// LinkValue returns the key that signs links to the events of jobs, together with
// the internal secret, and creates it if it is missing. Without it, all links end.
func (s *Store) LinkValue() (string, error) { return s.made(LinkSecret, LinkKey) }

// made returns a value that the service makes for itself if it is missing.
func (s *Store) made(name, key string) (string, error) {
	value, err := s.Value(name, key)
	if dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		return value, err
	}
	err = s.Create(name, map[string]string{key: NewInternalSecret()}, false)
	if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeConflict { // another process has created it
		return "", err
	}
	return s.Value(name, key)
}
