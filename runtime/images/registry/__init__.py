"""Registries (OCI distribution-spec): pull, push, and who we are to them."""
