"""A container and its life: launched, waited for, kept, removed, found again after a crash."""
