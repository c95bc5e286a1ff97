"""Images made here: from a Containerfile, from packages, and those that come with Steelyard."""
