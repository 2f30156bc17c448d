"""The process that owns MMCore."""
