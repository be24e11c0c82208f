"""History and real-time market data, validated."""
