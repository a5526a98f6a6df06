package dreamcore

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/google/uuid"
)

// Slots is the number of groups that users are divided into. A service of several
// machines places users by their slots. The number is fixed: it is part of the ids
// of jobs.
const Slots = 1024

// slotBits are the bits of a slot.
const slotBits = Slots - 1

// Slot returns the user's slot: the same one in every version of the program, since
// the user's files are where it points.
func (u UserID) Slot() int {
	sum := sha256.Sum256([]byte(u))
	return int(binary.BigEndian.Uint16(sum[:])) & slotBits
}

// NewJobID returns a random (version 4) id whose last bits are the user's slot, so
// that the id alone leads to the machine of the job.
func NewJobID(user UserID) string {
	id := uuid.New()
	end := id[len(id)-2:]
	binary.BigEndian.PutUint16(end, binary.BigEndian.Uint16(end)&^uint16(slotBits)|uint16(user.Slot()))
	return id.String()
}

// JobSlot returns the slot in the id of a job. It means nothing in ids from before
// NewJobID.
func JobSlot(id string) (slot int, ok bool) {
	u, err := uuid.Parse(id)
	return int(binary.BigEndian.Uint16(u[len(u)-2:])) & slotBits, err == nil
}
