package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

const (
	maxSkills     = 20
	maxSkillName  = 128     // bytes
	maxSkillBytes = 1 << 20 // of one SKILL.md
)

// Skills reads the operator's skills; *volume.Store implements it.
type Skills interface {
	// ReadFile returns a file of a volume of at most limit bytes. The error is
	// CodeNotFound if the file is missing and CodeTooLarge if it is larger.
	ReadFile(volume, name string, limit int64) ([]byte, error)
}

// getSkillContent returns the texts of skills. Missing skills are left out.
func (s *Server) getSkillContent(x *exchange, r *http.Request) {
	fields, ok := x.readMembers(r, "skill_names") // an empty body requests no skills, as in the old backend
	if !ok {
		return
	}
	var names []json.RawMessage
	if raw := fields["skill_names"]; len(raw) > 0 && json.Unmarshal(raw, &names) != nil {
		x.fail(&dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid skill_names: must be an array", Hint: `send "skill_names":["threejs-setup"]`})
		return
	}
	if len(names) > maxSkills {
		x.fail(&dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("Too many skill_names: at most %d", maxSkills), Hint: "ask for the others in another request"})
		return
	}
	skills := map[string]string{}
	for _, raw := range names {
		name := text(raw, "")
		if !isSkillName(name) {
			continue
		}
		content, err := s.cfg.Skills.ReadFile(volume.Global, ".claude/skills/"+name+"/SKILL.md", maxSkillBytes)
		switch dreamcore.CodeOf(err) {
		case dreamcore.CodeNotFound:
			continue
		case dreamcore.CodeTooLarge:
			x.log.Warn("a skill is too large and was left out", "skill", name, "error", err)
			continue
		}
		if err != nil {
			x.fail(fmt.Errorf("read a skill: %w", err))
			return
		}
		skills[name] = strings.ToValidUTF8(string(content), "\uFFFD")
	}
	x.answer(http.StatusOK, struct {
		Skills map[string]string `json:"skills"`
	}{skills})
}

func isSkillName(name string) bool {
	if name == "" || len(name) > maxSkillName {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
