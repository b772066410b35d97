"""Nothing missing, or it is said: gaps, the ledger, back-fill."""
