"""What `verify` looks at, kind by kind: commits with their bytes, what is beside them, the accounts."""
