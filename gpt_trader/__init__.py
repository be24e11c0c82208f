"""Trading operations that run themselves from notebooks."""
__version__ = "0.1.0"
