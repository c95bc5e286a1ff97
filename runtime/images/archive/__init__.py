"""Images as files: load and save."""
