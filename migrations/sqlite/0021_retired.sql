-- Results that may be gone; see src/database/retention.rs.

-- No attempt takes a result of this epoch or an earlier one, because its files are being deleted; 0: none.
ALTER TABLE jobs ADD COLUMN retired_epoch INTEGER NOT NULL DEFAULT 0;
