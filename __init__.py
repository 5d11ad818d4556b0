"""devc: a compiler and engine for device models."""

__version__ = "0.1.0"
