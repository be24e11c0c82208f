"""Runs notebooks as procedures, chains them, records incidents."""
