"""The artifact: a manifest and a file per ring."""
