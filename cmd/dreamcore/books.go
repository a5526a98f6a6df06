package main

import (
	"log/slog"

	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// auditFiles is over how many files the audit log is spread.
const auditFiles = 32

func (s state) openAudit(log *slog.Logger) (*audit.Log, error) {
	return audit.Open(s.path(auditDir), audit.Options{
		Redact: s.redactor.Redact, Logger: log,
		MaxBytes: int64(s.cfg.AuditMiB) << 20 / auditFiles, MaxFiles: auditFiles,
	})
}

// openBooks opens what is written down of the work: the audit log, which
// everything after it tells of itself, and the books.
func (m *machine) openBooks() (err error) {
	if m.audit, err = m.openAudit(m.log); err != nil {
		return err
	}
	prices, err := usage.ParsePrices(m.cfg.Prices)
	if err != nil {
		return err
	}
	m.books, err = usage.Open(m.path(usageDir), usage.Options{Prices: prices, Limits: m.cfg.Limits(), Days: m.cfg.UsageDays, Logger: m.log})
	return err
}

// auditRotation writes down which secrets an operator has replaced.
func (s state) auditRotation(names []string) error {
	if len(names) == 0 {
		return nil
	}
	log, err := s.openAudit(nil)
	if err != nil {
		return err
	}
	for _, name := range names {
		log.Record(audit.Entry{Event: audit.EventSecret, Target: "rotate " + name, Verdict: audit.Allowed})
	}
	return log.Close()
}
