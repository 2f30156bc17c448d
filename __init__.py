"""queuescope: a Bluesky queueserver plugin package that makes Micro-Manager microscopes safe for agents."""

__version__ = "0.1.0"
