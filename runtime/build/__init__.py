"""Images made here: from a Containerfile, from Debian packages, and those that come with Steelyard."""
