"""Orders that are never lost and never doubled."""
