"""Looks after the workspace itself."""
