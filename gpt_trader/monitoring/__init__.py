"""Rules to alerts to people."""
