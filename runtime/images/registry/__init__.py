"""Registries (OCI distribution-spec): pull, push, credentials."""
