package secret

import "errors"

// RotateInternal sets the internal secret to a new value and returns it. The
// previous value stays valid, until the next rotation or EndRotation, so that front
// ends can be switched over one by one. CodeNotFound: there is no internal secret
// yet.
func (s *Store) RotateInternal() (value string, err error) {
	value = NewInternalSecret()
	err = s.change(InternalSecret, func(values map[string]string) error {
		current, ok := values[InternalKey]
		if !ok {
			return errInternal()
		}
		values[InternalPreviousKey] = current
		values[InternalKey] = value
		return nil
	})
	if err != nil {
		return "", err
	}
	return value, nil
}

// EndRotation invalidates the previous value of the internal secret. ended is false
// if there was no previous value.
func (s *Store) EndRotation() (ended bool, err error) {
	err = s.change(InternalSecret, func(values map[string]string) error {
		if _, ended = values[InternalPreviousKey]; !ended {
			return errUnchanged
		}
		delete(values, InternalPreviousKey)
		return nil
	})
	return ended && err == nil, err
}

// InternalValues returns the values that the service accepts: the current one
// first, then the previous one during a rotation. There is at least one value, and
// no value is empty.
func (s *Store) InternalValues() ([]string, error) {
	values, err := s.Get(InternalSecret)
	if err != nil {
		return nil, err
	}
	current, ok := values[InternalKey]
	if !ok {
		return nil, errInternal()
	}
	valid := []string{current}
	if previous, ok := values[InternalPreviousKey]; ok {
		valid = append(valid, previous)
	}
	return valid, nil
}

// errUnchanged ends a change without writing.
var errUnchanged = errors.New("unchanged")

// change reads a sealed secret, edits its values and writes it back, with other writers
// locked out.
func (s *Store) change(name string, edit func(values map[string]string) error) error {
	if err := s.checkNotMounted(name); err != nil {
		return err
	}
	root, unlock, err := lock(s.dir)
	if err != nil {
		return err
	}
	defer unlock()
	values, err := s.read(name)
	if err != nil {
		return err
	}
	if err := edit(values); err != nil {
		if errors.Is(err, errUnchanged) {
			return nil
		}
		return err
	}
	if err := checkValues(values); err != nil {
		return err
	}
	return s.write(root, name, values, true)
}

func errInternal() error {
	return errSetup("secret "+InternalSecret+" has no key "+InternalKey,
		"create it again: dreamcore secret delete "+InternalSecret+", then dreamcore setup", nil)
}
