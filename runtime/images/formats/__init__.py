"""Formats of images: digests, references, manifests, tar and its compressions."""
