"""The gpt-trader command."""
