"""The five ideas: workspace, journal, clock, procedure outcome, one source for each number."""
