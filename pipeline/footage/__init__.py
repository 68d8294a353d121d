"""What there is to ingest: files wherever they lie, what is said beside them, and each one's verdict."""
