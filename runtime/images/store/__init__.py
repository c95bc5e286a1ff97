"""The image store on disk: an OCI layout with the unpacked layers beside the blobs."""
