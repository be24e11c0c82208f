"""Risk measures and pre-trade limits."""
